//! The rules of the house, as ARCHITECTURE.md tells them: who may use what, and what the core never touches.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

type Table = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A fenced block of ARCHITECTURE.md: `name  what it may use`, `-` for nothing.
fn table(kind: &str) -> Table {
    let text = read(&root().join("ARCHITECTURE.md"));
    let fence = format!("```{kind}");
    let rows = text.lines().skip_while(|line| *line != fence).skip(1).take_while(|line| *line != "```");
    let table: Table = rows
        .map(|row| {
            let mut words = row.split_whitespace().map(str::to_owned);
            let name = words.next().expect("no empty row");
            (name, words.filter(|word| word != "-").collect())
        })
        .collect();
    assert!(!table.is_empty(), "ARCHITECTURE.md has no block {fence}");
    table
}

/// One source file of the core: its module, how deep it lies, and its code without comments and test modules. Lines
/// keep their numbers.
struct Source {
    path: String,
    module: String,
    depth: usize,
    code: Vec<String>,
}

impl Source {
    fn faults<'a>(
        &'a self,
        fault: impl Fn(&str) -> Option<String> + 'a,
    ) -> impl Iterator<Item = String> + 'a {
        self.code
            .iter()
            .zip(1..)
            .filter_map(move |(line, n)| fault(line).map(|fault| format!("{}:{n}: {fault}", self.path)))
    }
}

fn sources() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    collect(&src, &src, &mut sources);
    assert!(sources.len() > 20, "the sources are elsewhere");
    sources
}

fn collect(src: &Path, folder: &Path, sources: &mut Vec<Source>) {
    let mut entries: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let tests: BTreeSet<PathBuf> = ["mod.rs", "lib.rs"]
        .iter()
        .filter_map(|name| fs::read_to_string(folder.join(name)).ok())
        .flat_map(|text| test_modules(&text).into_iter().map(|name| folder.join(name)).collect::<Vec<_>>())
        .collect();
    for path in entries.into_iter().filter(|path| !tests.contains(&path.with_extension(""))) {
        if path.is_dir() {
            collect(src, &path, sources);
            continue;
        }
        let inside = path.strip_prefix(src).unwrap().with_extension("");
        let mut parts: Vec<_> = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if parts.last().is_some_and(|last| last == "mod") {
            parts.pop();
        }
        sources.push(Source {
            path: format!("aegis-core/src/{}", path.strip_prefix(src).unwrap().display()),
            depth: parts.len(),
            module: parts.swap_remove(0),
            code: code(&read(&path)),
        });
    }
}

/// The modules in files of their own that are compiled for tests only.
fn test_modules(text: &str) -> Vec<String> {
    let lines: Vec<_> = text.lines().collect();
    lines
        .windows(2)
        .filter(|pair| pair[0] == "#[cfg(test)]")
        .filter_map(|pair| {
            let item = pair[1].strip_suffix(';')?;
            Some(item.rsplit_once("mod ")?.1.to_owned())
        })
        .collect()
}

/// Lines without comments, and without test modules (rustfmt ends them with a brace in the first column).
fn code(text: &str) -> Vec<String> {
    let mut code = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let is_test = line == "#[cfg(test)]"
            && lines.peek().is_some_and(|next| next.contains("mod ") && next.ends_with('{'));
        code.push(line.split("//").next().unwrap().to_owned());
        if is_test {
            while lines.next().inspect(|_| code.push(String::new())).is_some_and(|line| line != "}") {}
        }
    }
    code
}

/// The modules that a line of code names with `crate::`, or by climbing out of its own module with `super::`.
fn modules_named(line: &str, depth: usize) -> Vec<String> {
    let climb = "super::".repeat(depth);
    let mut roots = vec!["crate::"];
    // One `super::` more than that would not compile; one less stays inside the module.
    roots.extend((depth > 0).then_some(climb.as_str()));
    let starts = roots.iter().flat_map(|root| line.match_indices(root).map(|(at, root)| at + root.len()));
    starts
        .flat_map(|start| {
            let rest = &line[start..];
            let paths = match rest.strip_prefix('{') {
                Some(group) => group.split('}').next().unwrap().split(',').collect(),
                None => vec![rest],
            };
            paths.into_iter().map(|path| {
                let path = path.trim();
                path[..path.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(path.len())].to_owned()
            })
        })
        .collect()
}

#[test]
fn every_module_uses_only_what_it_may() {
    let mut table = table("modules");
    let base = table.remove("base").expect("a row for the base modules");
    let mut faults = Vec::new();
    for source in sources().iter().filter(|source| source.module != "lib") {
        let may: BTreeSet<&String> = match table.get(&source.module) {
            Some(row) => row.union(&base).collect(),
            None if base.contains(&source.module) => base.iter().collect(),
            None => {
                faults.push(format!("{}: module {} has no row", source.path, source.module));
                continue;
            }
        };
        faults.extend(source.faults(|line| {
            let named = modules_named(line, source.depth);
            let bad = named.into_iter().find(|named| {
                let is_module = table.contains_key(named) || base.contains(named);
                // `crate::Error` and `crate::Result` are the base's.
                let is_item = named.starts_with(char::is_uppercase);
                !is_item && *named != source.module && !(is_module && may.contains(named))
            })?;
            Some(format!("{} may not use {bad:?}; it may use {may:?}", source.module))
        }));
    }
    assert!(faults.is_empty(), "ARCHITECTURE.md, \"Who may use what\":\n{}", faults.join("\n"));
}

#[test]
fn groups_of_paths_begin_on_one_line_so_that_the_rule_above_sees_them() {
    for source in sources() {
        let faults: Vec<_> = source
            .faults(|line| line.ends_with("crate::{").then(|| "write one `use` per module".into()))
            .collect();
        assert!(faults.is_empty(), "{faults:?}");
    }
}

#[test]
fn the_order_has_no_circle_and_keeps_leases_and_soft_unicast_apart() {
    let table = table("modules");
    let reach = |from: &str| {
        let mut reached = BTreeSet::new();
        let mut next = vec![from.to_owned()];
        while let Some(module) = next.pop() {
            for used in table.get(&module).into_iter().flatten() {
                if reached.insert(used.clone()) {
                    next.push(used.clone());
                }
            }
        }
        reached
    };
    for module in table.keys() {
        assert!(!reach(module).contains(module), "{module} uses itself in the end");
    }
    assert!(!reach("lease").contains("soft_unicast"));
    assert!(!reach("soft_unicast").contains("lease"));
    for (module, used) in &table {
        for top in ["plan", "render"] {
            assert!(!used.contains(top), "{module} uses {top}; nobody does");
        }
    }
}

#[test]
fn every_crate_uses_only_what_it_may() {
    let table = table("crates");
    let manifest = |folder: &str| -> toml::Table {
        let path = root().join(folder).join("Cargo.toml");
        read(&path).parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let members = manifest("")["workspace"]["members"].clone();
    let published =
        members.as_array().unwrap().iter().map(|m| m.as_str().unwrap()).filter(|m| *m != "benches");
    for member in published {
        let may = table.get(member).unwrap_or_else(|| panic!("crate {member} has no row"));
        let manifest = manifest(member);
        let targets = manifest.get("target").and_then(toml::Value::as_table).into_iter().flatten();
        let tables = targets.filter_map(|(_, target)| target.as_table()).chain([&manifest]);
        for table in tables {
            for kind in ["dependencies", "build-dependencies"] {
                let uses = table.get(kind).and_then(toml::Value::as_table).into_iter().flat_map(|t| t.keys());
                let is_ours = |name: &&String| name.starts_with("aegis-") || *name == "benches";
                for used in uses.filter(is_ours) {
                    assert!(may.contains(used), "{member}/Cargo.toml, {kind}: {member} may not use {used}");
                }
            }
        }
    }
}

#[test]
fn the_core_is_pure() {
    let anywhere = [
        "std::fs",
        "std::thread",
        "std::process",
        "std::env::",
        "std::time::",
        "std::io",
        "std::net::Tcp",
        "std::net::Udp",
        "std::os::",
        "TcpStream",
        "UdpSocket",
        "Instant",
        "SystemTime",
        "HashMap",
        "HashSet",
        "Mutex",
        "RwLock",
        "println!",
        "print!",
        "dbg!",
        "todo!",
        "unimplemented!",
        "unsafe ",
    ];
    let outside_sync = ["sync::atomic", "loom::"];
    let faults: Vec<_> = sources()
        .iter()
        .flat_map(|source| {
            let atomics = if source.module == "sync" { &[] } else { &outside_sync[..] };
            let faults = source.faults(move |line| {
                let word = anywhere.iter().chain(atomics).find(|word| line.contains(**word))?;
                Some(format!("the core never names {word:?} here"))
            });
            faults.collect::<Vec<_>>()
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let lib = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"));
    assert!(lib.lines().any(|line| line == "#![forbid(unsafe_code)]"), "lib.rs must forbid unsafe code");
}

#[test]
fn no_file_names_a_place_on_somebodys_machine() {
    // In two parts, or this file would be the first to be found.
    let places = [("/wo", "rk/"), ("/ho", "me/"), ("/ro", "ot/"), ("/Us", "ers/"), ("/tm", "p/ws-")];
    let places: Vec<String> = places.iter().map(|(a, b)| format!("{a}{b}")).collect();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().unwrap() {
            let (entry, path) = entry.map(|e| (e.file_name().into_string().unwrap(), e.path())).unwrap();
            let built =
                [".git", "target", "artifacts", "coverage", "demo-out", "__pycache__", "node_modules"];
            if built.contains(&entry.as_str()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = fs::read(&path).unwrap();
            for (line, n) in String::from_utf8_lossy(&bytes).lines().zip(1..) {
                let place = places.iter().find(|place| line.contains(place.as_str()));
                assert_eq!(place, None, "{}:{n}", path.display());
            }
        }
    }
}
