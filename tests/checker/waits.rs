//! WAIT, and the globs that it is asked with.

use crate::checker::matches;

/// The matcher is the measure of what is to be seen by whom.
#[test]
fn a_glob_matches_what_the_protocol_says() {
    let all = ["/", "/a", "/b", "/ab", "/a/b", "/a/b/c", "/b/c"];
    let matching = |glob: &str| -> Vec<&str> {
        all.into_iter().filter(|path| matches(glob.as_bytes(), path.as_bytes())).collect()
    };
    assert_eq!(matching("/**"), all);
    assert_eq!(matching("/*"), ["/", "/a", "/b", "/ab"]);
    assert_eq!(matching("/?"), ["/a", "/b"]);
    assert_eq!(matching("/a*"), ["/a", "/ab"]);
    assert_eq!(matching("/a**"), ["/a", "/ab", "/a/b", "/a/b/c"]);
    assert_eq!(matching("/a/*"), ["/a/b"]);
    assert_eq!(matching("/**/c"), ["/a/b/c", "/b/c"]);
    assert_eq!(matching("/***c"), ["/a/b/c", "/b/c"]);
    assert_eq!(matching("/?/*"), ["/a/b", "/b/c"]);
    assert_eq!(matching("/a"), ["/a"]);
    assert_eq!(matching("/"), ["/"]);
}
