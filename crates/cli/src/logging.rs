//! Logs go to standard error: compact lines, or JSON with `HIKUBE_LOG_FORMAT=json`. `HIKUBE_LOG` filters them.

use tracing_subscriber::EnvFilter;

/// Sets logging up; `default` applies without `HIKUBE_LOG`.
pub fn init(default: &str) {
    let filter = std::env::var("HIKUBE_LOG").unwrap_or_else(|_| default.to_owned());
    let filter = EnvFilter::try_new(&filter).unwrap_or_else(|error| {
        eprintln!("HIKUBE_LOG={filter}: {error}");
        EnvFilter::new(default)
    });
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    if std::env::var("HIKUBE_LOG_FORMAT").is_ok_and(|f| f == "json") {
        builder.json().init();
    } else {
        builder.compact().init();
    }
}
