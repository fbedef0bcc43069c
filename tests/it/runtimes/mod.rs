//! The library works on any executor: on those that exist, and on some that nobody should write.
//!
//! [`scenarios`] are what is run: together they use every public future. [`executors`] are what
//! runs them. Each test here is one executor, or one way to run a driver, and runs all scenarios.

mod executors;
mod scenarios;

use async_io::Async;
use executors::{
    async_std, inline, local_pool, new_waker_each_poll, pollster_on_one_thread,
    pollster_on_threads, smol_global, smol_on_one_thread, smol_on_threads, thread_pool,
};
use futures::StreamExt;
use futures::channel::oneshot;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use scenarios::{Calls, SCENARIOS, Task};
use wakering::{Driver, PolledDriver};

use crate::common::on_both_backends;
use crate::common::own_ring::Executor;
use crate::common::running::{Way, running, turn};

on_both_backends!(
    everything_works_under_pollster,
    everything_works_under_smol,
    everything_works_under_smols_executor_with_two_threads,
    everything_works_under_async_std,
    everything_works_under_a_local_pool,
    everything_works_under_a_thread_pool,
    everything_works_under_block_on_of_a_background_driver,
    everything_works_on_the_thread_that_parks_in_the_driver,
    everything_works_under_an_executor_that_runs_in_the_drivers_block_on,
    everything_works_while_another_thread_parks_in_the_driver,
    everything_works_with_a_polled_driver_in_smols_reactor,
    everything_works_with_a_polled_driver_in_async_stds_reactor,
    everything_works_where_one_task_drives_and_works,
    everything_works_under_an_executor_with_a_ring_of_its_own,
    everything_works_under_an_executor_that_polls_inside_of_wake,
    everything_works_under_an_executor_that_polls_for_no_reason,
    everything_works_when_futures_are_dropped_at_any_await,
);

/// Runs one scenario after the other.
fn everything(driver: &Driver, run: impl FnMut(Vec<Task>)) {
    everything_with(Calls::PATIENT, driver, run);
}

fn everything_with(calls: Calls, driver: &Driver, mut run: impl FnMut(Vec<Task>)) {
    for (name, scenario) in SCENARIOS {
        // libtest shows this if the test fails.
        eprintln!("{name}, {calls:?}");
        run(scenario(driver, calls));
    }
}

fn everything_works_under_pollster(driver: &Driver) {
    everything(driver, pollster_on_threads);
    everything(driver, pollster_on_one_thread);
}

fn everything_works_under_smol(driver: &Driver) {
    everything(driver, smol_on_one_thread);
    everything(driver, smol_global);
}

fn everything_works_under_smols_executor_with_two_threads(driver: &Driver) {
    everything(driver, smol_on_threads);
}

fn everything_works_under_async_std(driver: &Driver) {
    everything(driver, async_std);
}

fn everything_works_under_a_local_pool(driver: &Driver) {
    everything(driver, local_pool);
}

fn everything_works_under_a_thread_pool(driver: &Driver) {
    everything(driver, thread_pool);
}

fn everything_works_under_block_on_of_a_background_driver(driver: &Driver) {
    everything(driver, |tasks| block_on(driver, tasks));
}

/// Polls each task only after it was woken.
fn block_on(driver: &Driver, tasks: Vec<Task>) {
    driver.block_on(FuturesUnordered::from_iter(tasks).collect::<()>());
}

fn parked(like: &Driver) -> Driver {
    Driver::builder().backend(like.backend()).build().unwrap()
}

fn everything_works_on_the_thread_that_parks_in_the_driver(like: &Driver) {
    let driver = parked(like);
    everything(&driver, |tasks| block_on(&driver, tasks));
    // The endpoints belong to a driver that runs by itself, and the thread sleeps in another
    // driver.
    everything(like, |tasks| block_on(&driver, tasks));
}

fn everything_works_under_an_executor_that_runs_in_the_drivers_block_on(like: &Driver) {
    let driver = parked(like);
    everything(&driver, |tasks| {
        let executor = smol::LocalExecutor::new();
        let tasks: Vec<_> = tasks.into_iter().map(|task| executor.spawn(task)).collect();
        driver.block_on(executor.run(join_all(tasks)));
    });
}

fn everything_works_while_another_thread_parks_in_the_driver(like: &Driver) {
    running(Way::Parked, like.backend(), |driver| {
        everything(driver, pollster_on_threads);
        everything(driver, smol_on_threads);
        everything(driver, new_waker_each_poll);
    });
}

fn polled(like: &Driver) -> (PolledDriver, Driver) {
    let driver = Driver::builder().backend(like.backend()).polled().unwrap();
    let handle = Driver::clone(&driver);
    (driver, handle)
}

fn everything_works_with_a_polled_driver_in_smols_reactor(like: &Driver) {
    running(Way::Polled, like.backend(), |driver| {
        everything(driver, smol_on_threads);
        everything(driver, new_waker_each_poll);
    });
    // Everything runs on one thread.
    let (driver, handle) = polled(like);
    let (working, end) = oneshot::channel();
    let executor = smol::LocalExecutor::new();
    let turning = executor.spawn(turn(driver, end));
    everything(&handle, |tasks| {
        let tasks: Vec<_> = tasks.into_iter().map(|task| executor.spawn(task)).collect();
        smol::block_on(executor.run(join_all(tasks)));
    });
    drop(working);
    smol::block_on(executor.run(turning));
}

fn everything_works_where_one_task_drives_and_works(like: &Driver) {
    let (driver, handle) = polled(like);
    let driver = Async::new(driver).unwrap();
    everything(&handle, |tasks| {
        let work = FuturesUnordered::from_iter(tasks).collect::<()>();
        smol::block_on(driver.get_ref().drive(|| driver.readable(), work)).unwrap();
    });
    everything(&handle, |tasks| {
        let executor = smol::LocalExecutor::new();
        let tasks: Vec<_> = tasks.into_iter().map(|task| executor.spawn(task)).collect();
        let work = executor.run(join_all(tasks));
        smol::block_on(driver.get_ref().drive(|| driver.readable(), work)).unwrap();
    });
    everything(&handle, |tasks| {
        let tasks = join_all(tasks.into_iter().map(::async_std::task::spawn));
        ::async_std::task::block_on(driver.get_ref().drive(|| driver.readable(), tasks)).unwrap();
    });
}

fn everything_works_under_an_executor_with_a_ring_of_its_own(like: &Driver) {
    running(Way::Embedded, like.backend(), |driver| {
        everything(driver, smol_on_threads);
        everything(driver, new_waker_each_poll);
    });
    // Everything runs on one thread.
    let driver = Driver::builder().backend(like.backend()).embedded().unwrap();
    let handle = Driver::clone(&driver);
    let mut executor = Executor::new(driver);
    everything(&handle, |tasks| {
        executor.block_on(FuturesUnordered::from_iter(tasks).collect::<()>());
    });
    everything(&handle, |tasks| {
        let smols = smol::LocalExecutor::new();
        let tasks: Vec<_> = tasks.into_iter().map(|task| smols.spawn(task)).collect();
        executor.block_on(smols.run(join_all(tasks)));
    });
}

fn everything_works_with_a_polled_driver_in_async_stds_reactor(like: &Driver) {
    let (driver, handle) = polled(like);
    let (working, end) = oneshot::channel();
    let turning = ::async_std::task::spawn(turn(driver, end));
    everything(&handle, async_std);
    drop(working);
    ::async_std::task::block_on(turning);
}

fn everything_works_under_an_executor_that_polls_inside_of_wake(driver: &Driver) {
    everything(driver, inline);
}

fn everything_works_under_an_executor_that_polls_for_no_reason(driver: &Driver) {
    everything(driver, new_waker_each_poll);
}

fn everything_works_when_futures_are_dropped_at_any_await(like: &Driver) {
    let driver = parked(like);
    for polls in 0..3 {
        let calls = Calls::impatient(polls);
        everything_with(calls, like, new_waker_each_poll);
        everything_with(calls, like, smol_on_one_thread);
        everything_with(calls, &driver, |tasks| block_on(&driver, tasks));
    }
}
