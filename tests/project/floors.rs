//! The repository tests what it promises about its own shape: who may import whom, what only the shell may name, and
//! what lies at the top level.

use std::path::{Path, PathBuf};

/// Each module's floor; a module imports from lower floors only.
const FLOORS: &[(&str, u32)] = &[
    ("faults", 0),
    ("limits", 0),
    ("address", 1),
    ("stats", 1),
    ("wire", 1),
    ("store", 2),
    ("log", 4),
    ("replica", 5),
    ("client", 6),
    ("server", 7),
    ("tune", 8),
    ("cli", 9),
];

/// Floors below the shell: deterministic, without I/O.
const PURE: &[&str] = &["faults", "limits", "address", "stats", "wire", "store", "log", "replica"];

/// What only the world has: not to be named in a pure module.
const WORLDLY: &[&str] = &[
    "tokio",
    "std::fs",
    "std::net",
    "std::thread",
    "std::time::Instant",
    "SystemTime",
    "std::env",
    "thread_rng",
    "getrandom",
    "rustix",
    "libc::",
    "async fn",
    "HashMap",
    "HashSet",
    // Of `std::sync`, `Arc` and atomic counters are allowed: the owner of a `Bytes` has to be `Send`.
    "Mutex",
    "RwLock",
    "Condvar",
    "mpsc",
    "OnceLock",
    "LazyLock",
    "std::process",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The sources below a folder, but for those of unit tests, which may use the world.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let test = path.file_stem().is_some_and(|name| name == "tests");
        if path.is_dir() && !test {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") && !test {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The module of a file below `src`, such as `store` for `src/store/glob.rs`.
fn module(file: &Path) -> String {
    let relative = file.strip_prefix(root().join("src")).unwrap();
    let first = relative.iter().next().unwrap().to_str().unwrap();
    first.trim_end_matches(".rs").to_string()
}

/// The code of a file: without comments, and without its unit tests, which may use the world.
fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = text.lines().map(|line| line.split("//").next().unwrap());
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules of this crate that a file names.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in code.split("crate::").skip(1) {
        if let Some(group) = part.strip_prefix('{') {
            let group = group.split('}').next().unwrap();
            found.extend(group.split(',').map(|name| name.trim().split("::").next().unwrap().to_string()));
        } else {
            found.push(part.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect());
        }
    }
    found
}

#[test]
fn no_module_imports_from_its_own_floor_or_a_higher_one() {
    let floor = |name: &str| FLOORS.iter().find(|(n, _)| *n == name).map(|(_, f)| *f);
    let mut checked = 0;
    for file in sources(&root().join("src")) {
        let module = module(&file);
        if module == "lib" || module == "bin" {
            continue;
        }
        let own = floor(&module).unwrap_or_else(|| panic!("{module} has no floor; give it one in FLOORS"));
        for import in imports(&code(&file)) {
            let Some(other) = floor(&import) else { continue };
            checked += 1;
            assert!(
                import == module || other < own,
                "{}: floor {own} imports {import} of floor {other}",
                file.display()
            );
        }
    }
    assert!(checked > 10, "the test reads nothing any more");
}

#[test]
fn floors_below_the_shell_name_no_clock_no_randomness_no_socket_and_no_file() {
    for file in sources(&root().join("src")) {
        if !PURE.contains(&module(&file).as_str()) {
            continue;
        }
        let code = code(&file);
        for word in WORLDLY {
            assert!(!code.contains(word), "{} names {word}", file.display());
        }
    }
}

#[test]
fn only_the_server_names_tokio_uring() {
    for file in sources(&root().join("src")) {
        if module(&file) != "server" {
            assert!(!code(&file).contains("tokio_uring"), "{} names tokio_uring", file.display());
        }
    }
}

/// A deliberate fault in a build for use would be a bug like any other: the feature that lets tests arm one is no part of another
/// feature, and what it changes is all in one place.
#[test]
fn deliberate_faults_are_for_tests_only() {
    for file in sources(&root().join("src")) {
        let named = std::fs::read_to_string(&file).unwrap().contains("feature = \"faults\"");
        assert_eq!(named, module(&file) == "faults", "{}", file.display());
    }
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let features = manifest.split("[features]").nth(1).unwrap().split("\n[").next().unwrap();
    let asked = features.lines().filter(|line| !line.starts_with('#') && line.contains("faults")).collect::<Vec<_>>();
    assert_eq!(asked, ["faults = []"]);
}

#[test]
fn nothing_strays_at_the_top_level() {
    const KNOWN: &[&str] = &["Cargo.toml", "Cargo.lock", "LICENSE", "README.md", "bench", "src", "tests", "tuning"];
    for entry in std::fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // Dotfiles, and what building and running leave behind, which git ignores.
        let known =
            KNOWN.contains(&name.as_str()) || name.starts_with('.') || name == "target" || name.ends_with("-data");
        assert!(known, "{name} does not belong to the top level");
    }
}
