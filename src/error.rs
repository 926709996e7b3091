//! The one error type: every variant says what failed, which object, the limit against the need, and the way out.

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in etalon.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No adapter answered to the request.
    #[error(
        "no GPU adapter found{wanted}: install a Vulkan driver (on Debian: apt-get install mesa-vulkan-drivers) or choose another with `etalon devices`"
    )]
    NoAdapter {
        /// What was asked for, with a leading space, or empty.
        wanted: String,
    },
    /// The device could not be created, or refused an operation.
    #[error("{what}: the device reported: {message}")]
    Device {
        /// What was being done.
        what: String,
        /// The device's own words.
        message: String,
    },
    /// The device ran out of memory.
    #[error(
        "out of device memory while allocating {bytes} bytes for {what} ({in_use} bytes in use): use a smaller model, a shorter context or fewer bits"
    )]
    OutOfMemory {
        /// The object that was being allocated.
        what: String,
        /// Its size.
        bytes: u64,
        /// Bytes that this context held at that time.
        in_use: u64,
    },
    /// The device was lost.
    #[error("the device was lost ({reason}): create a new context and load the model again")]
    DeviceLost {
        /// The driver's words.
        reason: String,
    },
    /// A limit of the device is exceeded.
    #[error("{what} needs {limit} of {needed}, the device allows {allowed}: {advice}")]
    Limit {
        /// The object.
        what: String,
        /// The name of the limit.
        limit: &'static str,
        /// What is needed.
        needed: u64,
        /// What the device allows.
        allowed: u64,
        /// The way out.
        advice: &'static str,
    },
    /// Operands do not fit each other.
    #[error("{op}: {message}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// What does not fit.
        message: String,
    },
    /// A plan and what was bound to it do not fit.
    #[error("plan `{plan}`: {message}")]
    Plan {
        /// The plan's label.
        plan: String,
        /// What does not fit.
        message: String,
    },
    /// A dispatch differs from its CPU twin.
    #[error("plan `{plan}`, dispatch {index} ({dispatch}) differs from its CPU twin: {message}")]
    Mismatch {
        /// The plan's label.
        plan: String,
        /// Position of the dispatch.
        index: usize,
        /// The dispatch's label, kernel and variant.
        dispatch: String,
        /// The first difference.
        message: String,
    },
    /// A file is not what it should be.
    #[error("{file}: {field}: {message}")]
    Format {
        /// The file.
        file: String,
        /// The tensor, key or header field.
        field: String,
        /// What is wrong with it, and what to do.
        message: String,
    },
    /// A tensor that the model needs is not in its file.
    #[error("{file}: tensor `{tensor}` is missing: {hint}")]
    MissingTensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// What was looked for and what the file has.
        hint: String,
    },
    /// Something valid that this version does not support.
    #[error("{what} is not supported: {advice}")]
    Unsupported {
        /// What it is.
        what: String,
        /// The way out.
        advice: String,
    },
    /// A loss or a gradient was not a number.
    #[error(
        "training diverged at step {step}: {what} is not finite; nothing was updated since: resume from the last checkpoint with a lower learning rate, or clip gradients"
    )]
    Diverged {
        /// The step, from 0.
        step: usize,
        /// The loss, or a tensor's gradient.
        what: String,
    },
    /// A request to a session that cannot be met.
    #[error("{0}")]
    Request(String),
    /// Reading or writing a file.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The system's words.
        source: std::io::Error,
    },
}

impl Error {
    /// A [`Error::Shape`].
    pub(crate) fn shape(op: &'static str, message: impl Into<String>) -> Self {
        Self::Shape { op, message: message.into() }
    }

    /// A [`Error::Format`].
    #[cfg(feature = "models")]
    pub(crate) fn format(file: impl Into<String>, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Format { file: file.into(), field: field.into(), message: message.into() }
    }
}
