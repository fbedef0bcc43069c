//! Many tasks and threads that use one end.

mod many_tasks;
mod threads_and_tasks;
