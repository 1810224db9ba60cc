//! `snakepit_fork`, as functions of Python: the memory and descriptors of processes that a tool forks.

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use snakepit_fork::{Alive, Row};

/// Makes children's memory and descriptors their own, however they are forked. Before any module of the user's is
/// imported: its handlers must be the first. Raises `OSError`.
#[pyfunction]
pub fn install_fork_handlers() -> PyResult<()> {
    // SAFETY: the interpreter never unloads an extension.
    unsafe { snakepit_fork::install() }
        .map_err(|number| PyOSError::new_err((number, std::io::Error::from_raw_os_error(number).to_string())))
}

/// Sockets that listen on this path, or were accepted there, are dead in children. False if it is too long for one.
#[pyfunction]
pub fn close_in_children(path: &[u8]) -> bool {
    snakepit_fork::close_in_children(path)
}

/// Whether this process was forked from a worker.
#[pyfunction]
pub fn is_child() -> bool {
    snakepit_fork::is_child()
}

/// This process was forked from a worker.
#[pyfunction]
pub fn become_child() {
    snakepit_fork::become_child();
}

/// Lists a descriptor, which is dead in children; the number of its row.
#[pyfunction]
pub fn add_descriptor(descriptor: i32) -> u32 {
    snakepit_fork::add(Alive::Descriptor(descriptor)).into_number()
}

/// The descriptor of this row may be closed, and its number become another file's.
#[pyfunction]
pub fn remove_row(row: u32) -> PyResult<()> {
    let row = Row::from_number(row).ok_or_else(|| PyValueError::new_err("there is no such row"))?;
    snakepit_fork::remove(row);
    Ok(())
}
