//! What must other systems be told? Text into a writer; never files.

mod openmetrics;

pub use openmetrics::{openmetrics, prometheus_text};
