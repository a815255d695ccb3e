//! Instance types of node groups: names, virtual CPUs and memory.

/// The size of a virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceType {
    /// Its name, for example `u1.medium`.
    pub name: &'static str,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in GiB.
    pub memory_gib: u32,
}

const fn of(name: &'static str, cpus: u32, memory_gib: u32) -> InstanceType {
    InstanceType {
        name,
        cpus,
        memory_gib,
    }
}

/// All of them: `s1` has 2, `u1` 4 and `m1` 8 GiB for each CPU.
pub const INSTANCE_TYPES: &[InstanceType] = &[
    of("s1.small", 1, 2),
    of("s1.medium", 2, 4),
    of("s1.large", 4, 8),
    of("s1.xlarge", 8, 16),
    of("s1.3large", 12, 24),
    of("s1.2xlarge", 16, 32),
    of("s1.3xlarge", 24, 48),
    of("s1.4xlarge", 32, 64),
    of("s1.8xlarge", 64, 128),
    of("u1.medium", 1, 4),
    of("u1.large", 2, 8),
    of("u1.xlarge", 4, 16),
    of("u1.2xlarge", 8, 32),
    of("u1.4xlarge", 16, 64),
    of("u1.8xlarge", 32, 128),
    of("m1.large", 2, 16),
    of("m1.xlarge", 4, 32),
    of("m1.2xlarge", 8, 64),
    of("m1.4xlarge", 16, 128),
    of("m1.8xlarge", 32, 256),
];

/// The type called `name`.
pub(super) fn find(name: &str) -> Option<&'static InstanceType> {
    INSTANCE_TYPES.iter().find(|t| t.name == name)
}

/// All names, for messages.
pub(super) fn names() -> String {
    let names: Vec<_> = INSTANCE_TYPES.iter().map(|t| t.name).collect();
    names.join(", ")
}
