//! What measuring costs.

/// What the program itself costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Per switch, as the kernel's statistics of programs have it, nanoseconds.
    pub raw_ns: f64,
    /// The same of a program that does nothing: the floor of that measurement.
    pub empty_ns: f64,
    /// Switches per second, all CPUs together.
    pub switches_per_s: f64,
}

impl Cost {
    /// Per switch, the floor taken off, nanoseconds.
    #[must_use]
    pub fn net_ns(&self) -> f64 {
        (self.raw_ns - self.empty_ns).max(0.0)
    }

    /// Share of one CPU.
    #[must_use]
    pub fn cpu_share(&self) -> f64 {
        self.net_ns() * self.switches_per_s / 1e9
    }
}
