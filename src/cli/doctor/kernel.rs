//! The kernel, and whether its io_uring can be used.

use std::fs;

use wakering::{Backend, Driver, ShmError};

use super::section::Section;

/// The kernel from which on a peer's death is noticed while a forked child of it lives on.
const NOTICES_FORKS: (u32, u32) = (6, 5);

pub(super) fn look() -> Section {
    let uname = rustix::system::uname();
    let [release, machine] =
        [uname.release(), uname.machine()].map(|name| name.to_string_lossy().into_owned());
    let version = version(&release);
    let text = format!("Linux {release} on {machine}");
    let section =
        Section::new("kernel").fact("release", release.as_str()).fact("machine", machine).ok(text);
    if version < NOTICES_FORKS {
        return section.note(
            "before Linux 6.5, a peer's death goes unnoticed while a forked child of it lives on",
        );
    }
    section
}

/// The first two numbers of a release; 0 for one that is not there.
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

pub(super) fn look_at_io_uring() -> Section {
    let disabled = number(fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok().as_deref());
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    let filters = number(mode).map(|mode| mode != 0);
    let section = Section::new("io_uring").fact("sysctl_disabled", disabled);
    let section = section.fact("seccomp_filter", filters);
    match Driver::builder().backend(Backend::IoUring).build() {
        Ok(driver) => {
            let text = "drivers wait by futex waits in an io_uring";
            let section = section.fact("usable", true).fact("reason", Option::<&str>::None);
            match Driver::new().map(|auto| auto.backend()) {
                Ok(auto) if auto != driver.backend() => {
                    section.note(format!("{text}, but use {auto} here unless told otherwise"))
                }
                _ => section.ok(text),
            }
        }
        Err(error) => {
            let reason = match &error {
                ShmError::Unsupported { reason } => (*reason).to_owned(),
                ShmError::Io { step, source } => format!("{step}: {source}"),
                error => error.to_string(),
            };
            let section = section.fact("usable", false).fact("reason", reason.as_str());
            let section = section.note(format!("drivers wait by epoll: {reason}"));
            match (disabled, filters) {
                (Some(1), _) => section.note(
                    "kernel.io_uring_disabled is 1: only members of kernel.io_uring_group may use it",
                ),
                (Some(2..), _) => section.note("kernel.io_uring_disabled is 2: nobody may use it"),
                (_, Some(true)) => section.note(
                    "a seccomp filter is in force here, as in many containers; it may be what \
                     forbids io_uring",
                ),
                _ => section,
            }
        }
    }
}

fn number(text: Option<&str>) -> Option<u32> {
    text?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_begins_with_its_version() {
        assert_eq!(version("6.18.44-fc-v782"), (6, 18));
        assert_eq!(version("5.4"), (5, 4));
        assert_eq!(version("7-rc1"), (7, 0));
        assert_eq!(version("odd"), (0, 0));
        assert!(version("6.4.9") < NOTICES_FORKS && version("6.5.0") >= NOTICES_FORKS);
    }
}
