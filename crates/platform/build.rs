//! Compiles the pause program, a static executable without any library, which `images` embeds.
use std::path::PathBuf;
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=pause/pause.rs");
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("pause");
    let status = Command::new(std::env::var("RUSTC")?)
        .args(["--edition", "2024", "--crate-type", "bin", "--target"])
        .arg(std::env::var("TARGET")?)
        .args([
            "-C",
            "opt-level=s",
            "-C",
            "panic=abort",
            "-C",
            "relocation-model=static",
        ])
        .args([
            "-C",
            "link-arg=-nostartfiles",
            "-C",
            "link-arg=-nostdlib",
            "-C",
            "link-arg=-static",
        ])
        .args(["-C", "strip=symbols", "-o"])
        .arg(&out)
        .arg("pause/pause.rs")
        .status()?;
    if !status.success() {
        return Err("the pause program does not compile".into());
    }
    Ok(())
}
