//! The install script, on a folder that looks like a release.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest as _, Sha256};

use crate::run::{root, target};

/// A release of a program that only tells its version, for this machine.
fn release(name: &str) -> (PathBuf, String) {
    let folder = target().join("tmp").join(name);
    let _ = fs::remove_dir_all(&folder);
    let system = if cfg!(target_os = "macos") { "apple-darwin" } else { "unknown-linux-musl" };
    let packed = format!("mwa-1.2.3-{}-{system}", std::env::consts::ARCH);
    for (file, text) in [
        ("mwa", "#!/bin/sh\necho mwa 1.2.3\n"),
        ("man/man1/mwa.1", ".TH mwa 1\n"),
        ("completions/mwa.bash", "complete\n"),
        ("completions/_mwa", "#compdef mwa\n"),
        ("completions/mwa.fish", "complete\n"),
    ] {
        let path = folder.join(&packed).join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    run(Command::new("chmod").arg("755").arg(folder.join(&packed).join("mwa")));
    let archive = format!("{packed}.tar.gz");
    run(Command::new("tar").args(["-czf", &archive, &packed]).current_dir(&folder));
    let hex: String = Sha256::digest(fs::read(folder.join(&archive)).unwrap())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    fs::write(folder.join("SHA256SUMS"), format!("{:064x}  mwa.cdx.json\n{hex}  {archive}\n", 0)).unwrap();
    (folder, archive)
}

fn run(command: &mut Command) -> Output {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    done
}

fn install(from: &Path, more: &[&str]) -> (bool, String) {
    let mut install = Command::new("sh");
    install
        .arg(root().join("install.sh"))
        .arg("--from")
        .arg(from)
        .arg("--to")
        .arg(from.join("to"))
        .args(more);
    let done = install.output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    (done.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn what_has_its_sum_is_installed_and_again() {
    let (folder, _) = release("install-good");
    for more in [&[][..], &["--version", "v1.2.3"]] {
        let (is_done, said) = install(&folder, more);
        assert!(is_done && said.contains("installed mwa 1.2.3 in"), "{said}");
        let said = run(&mut Command::new(folder.join("to/bin/mwa")));
        assert_eq!(said.stdout, b"mwa 1.2.3\n");
    }
    for file in [
        "man/man1/mwa.1",
        "zsh/site-functions/_mwa",
        "bash-completion/completions/mwa",
        "fish/vendor_completions.d/mwa.fish",
    ] {
        assert!(folder.join("to/share").join(file).is_file(), "{file}");
    }
}

#[test]
fn what_has_another_sum_or_none_is_not() {
    let (folder, archive) = release("install-bad");
    let mut bytes = fs::read(folder.join(&archive)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(folder.join(&archive), bytes).unwrap();
    let (is_done, said) = install(&folder, &[]);
    assert!(!is_done && said.contains("is not what SHA256SUMS says"), "{said}");
    let (is_done, said) = install(&folder, &["--version", "1.2.4"]);
    assert!(!is_done && said.contains("has no line for mwa-1.2.4"), "{said}");
    fs::remove_file(folder.join("SHA256SUMS")).unwrap();
    let (is_done, said) = install(&folder, &[]);
    assert!(!is_done && said.contains("holds no SHA256SUMS"), "{said}");
    assert!(!folder.join("to").exists());
}
