//! Stories with their expected output: `aegis-core/testdata/epochs/*.txt`, as etcd's raft has them. Each block is some
//! commands, `----`, and what they print; a blank line ends it. Lines with `#` tell the story.
//! `AEGIS_REWRITE_SCENARIOS=1 cargo test -p aegis-core scenario` writes what is printed now: read the difference.
//!
//! ```text
//! fleet a b c@d1                   the machines of the fleet from now on, c at data center d1, the others at d0
//! routers r1 r2                    routers that handovers wait for; before `start`
//! start 192.0.2.1 a:1-15 b:16-31   controller c1, a first layout (granules of 2,048 ports); the machines of the fleet start
//! retarget 192.0.2.1 a:1-31        towards another layout; `epoch=N`, `finer` and `renumbered` make it a wrong one
//! time +5s                         the clock of all
//! tick                             c1 looks at the clock
//! report a b                       each reports and applies what comes back
//! all                              every machine and router reports, three times
//! router r1                        it reports, and steers by what comes back
//! send a | begin a | write | deliver 3 | apply a
//!                                  a report by its steps. Sent and answered messages have numbers, and can be delivered
//!                                  late, twice (`deliver 3` again), to another (`deliver 3 b`), or never. `begin`: c1 has
//!                                  heard it, but its write takes until `write`
//! forge a granule=3 since=2 ports=80   c1 gets a report that a has never sent, with its boot and epoch
//! open a 192.0.2.1:4096            a connection, if the machine may grant; `v6:80` is its first IPv6 address
//! hold a .. | close a ..           it is held; it is gone
//! crash a | restart a              its software and connections are gone; it starts again
//! cut a | heal a                   it reaches nobody; it does again
//! controller c2                    another one starts, from the record
//! reload c2                        it reads the record
//! owner 192.0.2.1:4096             who gets a packet, and who gets its second chance
//! may-grant 192.0.2.1:4096         who may grant
//! dead                             whose tenure is over
//! show                             the layout in force, what is moving, and who may grant
//! ```
//! `on c2 <command>` is for another controller than c1. After every command nothing may be granted by two machines, or be
//! granted by one while it is open at another that still runs.

mod show;
mod world;

use std::path::Path;

use world::World;

/// Runs a story; gives it back with what is printed.
fn run(text: &str) -> String {
    let mut world = World::default();
    let mut lines = text.lines().peekable();
    let mut story = String::new();
    let mut printed: Option<String> = None;
    while let Some(line) = lines.next() {
        if line == "----" {
            let output = printed.take().unwrap_or_default();
            story += "----\n";
            story += &output;
            while lines.next_if(|line| !line.is_empty()).is_some() {}
            continue;
        }
        story += line;
        story += "\n";
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        printed.get_or_insert_default().push_str(&world.command(line));
        world.check(line);
    }
    assert!(printed.is_none(), "commands without ---- after them");
    story
}

#[test]
#[expect(clippy::print_stdout, reason = "it names the story in which a test panics")]
fn every_scenario_prints_what_it_did() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/epochs");
    let mut files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    assert!(files.len() > 10, "no stories in {}", folder.display());
    for file in files {
        println!("{}", file.display());
        let text = std::fs::read_to_string(&file).unwrap();
        let story = run(&text);
        if std::env::var_os("AEGIS_REWRITE_SCENARIOS").is_some() {
            std::fs::write(&file, &story).unwrap();
        } else {
            let differs = text.lines().zip(story.lines()).position(|(was, is)| was != is);
            let line = differs.unwrap_or_else(|| text.lines().count().min(story.lines().count()));
            assert!(text == story, "{} differs from line {}; now:\n{story}", file.display(), line + 1);
        }
    }
}
