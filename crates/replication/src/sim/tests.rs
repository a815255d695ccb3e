use super::*;

#[test]
fn fifty_seeds() {
    for seed in 0..50 {
        if let Err(failure) = run_seed(seed, Options::default()) {
            panic!("{failure}");
        }
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 17] {
        let one = run_seed(seed, Options::default()).unwrap();
        let two = run_seed(seed, Options::default()).unwrap();
        assert_eq!(one, two);
    }
}
