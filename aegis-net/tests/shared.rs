//! Memory shared by real processes: this program again, in the role that the environment names.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom, Write};

use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use aegis_core::lease::{Memory, Size};
use aegis_net::{Process, Shared};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

const SIZE: Size = Size { words: 1_000, tags: 3_000 };
const ROLE: &str = "AEGIS_TEST_ROLE";
const PATH: &str = "AEGIS_TEST_PATH";

/// This program in another role.
fn process(role: &str, path: Option<&Path>, stdin: impl Into<Stdio>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "another_process", "--quiet"]).env(ROLE, role).stdin(stdin);
    command.stdout(Stdio::null()).envs(path.map(|path| (PATH, path)));
    command.spawn().unwrap()
}

/// The other processes of the tests in this file. Without a role there is nothing to do.
#[test]
fn another_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let path = || PathBuf::from(std::env::var_os(PATH).expect("its parent names the file"));

    match role.as_str() {
        "write to memfd" => {
            let fd = rustix::io::dup(io::stdin()).unwrap();
            write(&Shared::from_fd(fd).unwrap());
        }
        "write to file" => write(&Shared::file(path(), SIZE).unwrap()),
        "hold file" => {
            let shared = Shared::file(path(), SIZE).unwrap();
            shared.words()[0].store(Process::me().token(), SeqCst);
            io::copy(&mut io::stdin(), &mut io::sink()).unwrap();
        }
        "hold half a file" => {
            Shared::prepared_file(path(), SIZE, |_| {
                fs::write(path().with_extension("half"), "").unwrap();
                io::copy(&mut io::stdin(), &mut io::sink()).unwrap();
                Ok(())
            })
            .unwrap();
        }
        "race for file" => {
            // All start when their parent closes the other end.
            io::copy(&mut io::stdin(), &mut io::sink()).unwrap();
            let prepare = |new: Shared| {
                new.words()[1].store(Process::me().token(), SeqCst);
                Ok(())
            };
            let shared = Shared::prepared_file(path(), SIZE, prepare).unwrap();
            assert_ne!(shared.words()[1].load(SeqCst), 0, "whoever sees the file sees it prepared");
            shared.words()[0].fetch_add(1, SeqCst);
        }
        role => panic!("no role is called {role}"),
    }
}

fn write(shared: &Shared) {
    assert_eq!(shared.size(), SIZE);
    shared.words()[0].store(Process::me().token(), SeqCst);
    shared.words()[SIZE.words - 1].store(u64::MAX, SeqCst);
    shared.tags()[SIZE.tags - 1].store(7, SeqCst);
}

/// `write` of another process is here, and nothing else.
fn assert_written(shared: &Shared) {
    let writer = Process::from_token(shared.words()[0].load(SeqCst)).expect("it has written who it is");
    assert!(writer != Process::me() && !writer.is_alive());
    assert_eq!(shared.words()[SIZE.words - 1].load(SeqCst), u64::MAX);
    assert_eq!(shared.tags()[SIZE.tags - 1].load(SeqCst), 7);
    assert!(shared.words()[1..SIZE.words - 1].iter().all(|word| word.load(SeqCst) == 0));
    assert!(shared.tags()[..SIZE.tags - 1].iter().all(|tag| tag.load(SeqCst) == 0));
}

/// A directory on a tmpfs, for one test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("aegis-test-{}-{}", std::process::id(), NEXT.fetch_add(1, SeqCst));
        let path = Path::new("/dev/shm").join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("leases")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn eventually(mut what: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !what() {
        assert!(start.elapsed().as_secs() < 60, "it never came true");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn refused(result: aegis_core::error::Result<Shared>, expected: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(expected), "{error:?} does not say {expected:?}");
}

#[test]
fn what_one_process_writes_to_a_memfd_the_other_sees() {
    let shared = Shared::memfd(SIZE).unwrap();
    let descriptor = shared.descriptor().unwrap().try_clone_to_owned().unwrap();
    assert!(process("write to memfd", None, descriptor).wait().unwrap().success());
    assert_written(&shared);
}

#[test]
fn what_one_process_writes_to_a_file_the_other_sees() {
    let directory = Directory::new();
    let path = directory.file();
    let shared = Shared::file(&path, SIZE).unwrap();
    assert!(process("write to file", Some(&path), Stdio::null()).wait().unwrap().success());
    assert_written(&shared);
    drop(shared);
    assert_written(&Shared::file(&path, SIZE).unwrap());
}

#[test]
fn nobody_can_change_the_length_of_a_memfd() {
    let shared = Shared::memfd(SIZE).unwrap();
    let file = File::from(shared.descriptor().unwrap().try_clone_to_owned().unwrap());
    let len = file.metadata().unwrap().len();
    assert_eq!(len, Shared::bytes(SIZE).unwrap() as u64);
    for other in [0, len - 1, len + 1] {
        let error = file.set_len(other).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
    }
    let error = fcntl_add_seals(&file, SealFlags::WRITE).unwrap_err();
    assert_eq!(error, rustix::io::Errno::PERM, "nor take the others' right to write");
    shared.words()[SIZE.words - 1].store(1, SeqCst);
}

#[test]
fn untouched_parts_of_a_memfd_take_no_memory() {
    let shared = Shared::memfd(Size { words: 1 << 27, tags: 1 << 20 }).unwrap();
    shared.tags()[0].store(1, SeqCst);
    shared.words()[shared.words().len() - 1].store(1, SeqCst);
    let file = File::from(shared.descriptor().unwrap().try_clone_to_owned().unwrap());
    let taken = file.metadata().unwrap().blocks() * 512;
    assert!(taken < 64 << 20, "{taken} bytes of a gibibyte");
}

#[test]
fn a_descriptor_of_something_else_is_refused() {
    refused(Shared::from_fd(File::open("/dev/null").unwrap().into()), "has no seals");
    refused(Shared::from_fd(UnixStream::pair().unwrap().0.into()), "has no seals");
    let directory = Directory::new();
    let file = File::create(directory.file()).unwrap();
    refused(Shared::from_fd(file.into()), "is not sealed against SHRINK and GROW");
    let memfd = |seals| {
        let fd = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        File::from(fd.try_clone().unwrap()).set_len(4_096).unwrap();
        fcntl_add_seals(&fd, seals).unwrap();
        fd
    };
    let (shrink, grow) = (SealFlags::SHRINK, SealFlags::GROW);
    refused(Shared::from_fd(memfd(SealFlags::empty())), "is not sealed against SHRINK and GROW");
    refused(Shared::from_fd(memfd(shrink)), "is not sealed against GROW");
    refused(Shared::from_fd(memfd(grow)), "is not sealed against SHRINK,");
    refused(Shared::from_fd(memfd(shrink | grow)), "the memfd: it starts with zeros");
    refused(Shared::from_fd(memfd(shrink | grow | SealFlags::WRITE)), "4096 bytes of the memfd as memory");
    let empty = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
    fcntl_add_seals(&empty, shrink | grow).unwrap();
    refused(Shared::from_fd(empty), "the memfd has 0 bytes");
}

#[test]
fn a_file_is_private_and_all_of_it_is_there() {
    let directory = Directory::new();
    let path = directory.file();
    let _shared = Shared::file(&path, SIZE).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.nlink()), (0o600, 1));
    assert_eq!(metadata.len(), Shared::bytes(SIZE).unwrap() as u64);
    assert!(metadata.blocks() * 512 >= metadata.len(), "no page is missing");
    assert_eq!(directory.names(), ["leases"]);
}

#[test]
fn a_file_without_room_is_refused_now() {
    let directory = Directory::new();
    let exabyte = Size { words: 1 << 56, tags: 0 };
    let path = directory.file();
    refused(Shared::file(&path, exabyte), &format!("576460752303423552 bytes for {}", path.display()));
    assert_eq!(directory.names(), [""; 0], "nothing is left");
}

#[test]
fn a_file_that_cannot_be_prepared_is_never_seen() {
    let directory = Directory::new();
    let no = || aegis_core::error::Error::input("not today");
    refused(Shared::prepared_file(directory.file(), SIZE, |_| Err(no())), "not today");
    assert_eq!(directory.names(), [""; 0]);
    let prepared = Shared::prepared_file(directory.file(), SIZE, |new| {
        new.words()[3].store(33, SeqCst);
        Ok(())
    });
    assert_eq!(prepared.unwrap().words()[3].load(SeqCst), 33);
    let opened = Shared::prepared_file(directory.file(), SIZE, |_| panic!("it is there already"));
    assert_eq!(opened.unwrap().words()[3].load(SeqCst), 33);
}

#[test]
fn a_file_of_another_size_is_refused_with_both() {
    let directory = Directory::new();
    drop(Shared::file(directory.file(), SIZE).unwrap());
    for (words, tags) in [(999, 3_000), (1_000, 3_001), (1_001, 2_996)] {
        let both =
            format!("is for 1000 words and 3000 tags, and {words} words and {tags} tags were asked for");
        refused(Shared::file(directory.file(), Size { words, tags }), &both);
    }
    Shared::file(directory.file(), SIZE).unwrap();
}

#[test]
fn a_file_with_other_contents_is_refused_and_kept() {
    let directory = Directory::new();
    let path = directory.file();
    let with = |change: &dyn Fn(&mut File), expected: &str| {
        let _ = fs::remove_file(&path);
        drop(Shared::file(&path, SIZE).unwrap());
        change(&mut OpenOptions::new().read(true).write(true).open(&path).unwrap());
        let before = fs::read(&path).unwrap();
        let error = Shared::file(&path, SIZE).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
        assert!(error.contains(path.to_str().unwrap()), "{error:?} does not name the file");
        assert!(fs::read(&path).unwrap() == before, "what is not ours is not changed");
    };
    let put = |file: &mut File, word: u64, value: u64| {
        file.seek(SeekFrom::Start(8 * word)).unwrap();
        file.write_all(&value.to_ne_bytes()).unwrap();
    };
    let len = Shared::bytes(SIZE).unwrap() as u64;
    with(&|file| put(file, 0, 0), "starts with zeros");
    with(&|file| file.write_all(b"#!/bin/s").unwrap(), "starts with \"#!/bin/s\" instead of \"AEGISSHM\"");
    with(&|file| put(file, 1, 7), "version 7");
    with(&|file| put(file, 2, 1), "1 words with complement");
    for huge in [u64::MAX, 1 << 61, 1 << 60] {
        let words = |file: &mut File| {
            put(file, 2, huge);
            put(file, 4, !huge);
        };
        with(&words, &format!("{huge} words and 3000 tags, but it has {len} bytes"));
    }
    with(&|file| put(file, 6, 1), "process namespace 1");
    with(&|file| file.set_len(len - 1).unwrap(), &format!("but it has {} bytes", len - 1));
    with(&|file| file.set_len(63).unwrap(), "has 63 bytes");
    with(&|file| file.set_len(0).unwrap(), "has 0 bytes");
    with(&|file| file.set_len(len + 1).unwrap(), &format!("has {} bytes instead of {len}", len + 1));
}

#[test]
fn a_file_that_others_have_a_hand_in_is_refused() {
    let directory = Directory::new();
    let path = directory.file();
    let other = directory.0.join("other");

    drop(Shared::file(&other, SIZE).unwrap());
    symlink(&other, &path).unwrap();
    refused(Shared::file(&path, SIZE), "is a symbolic link");
    fs::remove_file(&path).unwrap();

    symlink(directory.0.join("nowhere"), &path).unwrap();
    refused(Shared::file(&path, SIZE), "is a symbolic link");
    assert!(!directory.0.join("nowhere").exists());
    fs::remove_file(&path).unwrap();

    fs::hard_link(&other, &path).unwrap();
    refused(Shared::file(&path, SIZE), "has 2 names");
    fs::remove_file(&other).unwrap();
    Shared::file(&path, SIZE).unwrap();

    for mode in [0o640, 0o604, 0o666, 0o602, 0o610] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        refused(Shared::file(&path, SIZE), &format!("has mode 0{mode:o}"));
    }
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    Shared::file(&path, SIZE).unwrap();

    // Only root can give a file away.
    if std::os::unix::fs::chown(&path, Some(4_321), None).is_ok() {
        refused(Shared::file(&path, SIZE), "belongs to user 4321, and this process is user 0");
    }
    fs::remove_file(&path).unwrap();

    fs::create_dir(&path).unwrap();
    Shared::file(&path, SIZE).unwrap_err();
    fs::remove_dir(&path).unwrap();

    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    refused(Shared::file(&path, SIZE), "is no regular file but Fifo");
}

#[test]
fn a_path_that_cannot_be_is_refused() {
    refused(Shared::file("/", SIZE), "/");
    refused(Shared::file("", SIZE), "");
    refused(
        Shared::file("/dev/shm/aegis-no-such-directory/leases", SIZE),
        "/dev/shm/aegis-no-such-directory",
    );
}

#[test]
fn a_file_that_outlives_the_machines_restart_is_refused() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("leases-{}", std::process::id()));
    let file_system = rustix::fs::statfs(env!("CARGO_TARGET_TMPDIR")).unwrap().f_type;
    if file_system == rustix::fs::statfs("/dev/shm").unwrap().f_type {
        eprintln!("skipped: everything is built in memory here");
        return;
    }
    refused(Shared::file(&path, SIZE), "outlives a restart of the machine");
    assert!(!path.exists(), "and nothing is left");
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
    refused(Shared::file(&path, SIZE), "outlives a restart of the machine");
    fs::remove_file(&path).unwrap();
}

#[test]
fn processes_that_start_at_once_agree_on_one_file() {
    for _ in 0..10 {
        let directory = Directory::new();
        let path = directory.file();
        let (start, hold) = UnixStream::pair().unwrap();
        let racers: Vec<_> = (0..6)
            .map(|_| process("race for file", Some(&path), OwnedFd::from(start.try_clone().unwrap())))
            .collect();
        drop(hold);
        for mut racer in racers {
            assert!(racer.wait().unwrap().success());
        }
        let shared = Shared::file(&path, SIZE).unwrap();
        assert_eq!(shared.words()[0].load(SeqCst), 6, "all have counted in the same memory");
        assert_eq!(directory.names(), ["leases"], "and nothing else is left");
    }
}

#[test]
fn a_killed_process_is_in_nobodys_way() {
    let directory = Directory::new();
    let path = directory.file();

    let mut half = process("hold half a file", Some(&path), Stdio::piped());
    let mark = path.with_extension("half");
    eventually(|| mark.exists());
    half.kill().unwrap();
    half.wait().unwrap();
    fs::remove_file(mark).unwrap();
    assert_eq!(directory.names(), [""; 0], "half a file is gone with its process");

    let shared = Shared::file(&path, SIZE).unwrap();
    let mut holder = process("hold file", Some(&path), Stdio::piped());
    eventually(|| shared.words()[0].load(SeqCst) != 0);
    let owner = Process::from_token(shared.words()[0].load(SeqCst)).unwrap();
    assert!(owner.pid() == holder.id() && owner.is_alive());
    holder.kill().unwrap();
    eventually(|| !owner.is_alive());
    assert!(process("write to file", Some(&path), Stdio::null()).wait().unwrap().success());
    holder.wait().unwrap();
    assert_written(&shared);
}

#[test]
fn host_memory_is_created_then_opened() {
    let bytes = Shared::bytes(SIZE).unwrap();
    let mut memory = vec![0_u64; bytes.div_ceil(8)];
    let start = memory.as_mut_ptr().cast::<u8>();
    // SAFETY: `memory` lives to the end of the test, which only uses it through what is made here.
    let open = || unsafe { Shared::open_in(start, bytes) };
    // SAFETY: as above.
    let create = |size| unsafe { Shared::create_in(start, bytes, size) };
    refused(open(), "the host program's memory: it starts with zeros");
    refused(create(Size { words: SIZE.words + 1, ..SIZE }), "1001 words and 3000 tags take");
    let first = create(SIZE).unwrap();
    refused(create(SIZE), "is not zeroed");
    let second = open().unwrap();
    assert!(second.size() == SIZE && second.descriptor().is_none());
    first.words()[9].store(99, SeqCst);
    drop(first);
    assert_eq!(second.words()[9].load(SeqCst), 99, "the host's memory is not unmapped");
}

#[test]
fn a_dropped_region_is_unmapped() {
    let size = Size { words: 123_457, tags: 0 };
    let shared = Shared::memfd(size).unwrap();
    let inode =
        File::from(shared.descriptor().unwrap().try_clone_to_owned().unwrap()).metadata().unwrap().ino();
    let maps = || fs::read_to_string("/proc/self/maps").unwrap();
    let is_mapped = || maps().lines().any(|line| line.split_whitespace().nth(4) == Some(&inode.to_string()));
    assert!(is_mapped());
    drop(shared);
    assert!(!is_mapped());
}
