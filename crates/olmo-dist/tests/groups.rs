//! Process groups whose ranks are threads.

use std::thread::sleep;
use std::time::Duration;

use crate::support::run_ranks;
use olmo_dist::{Collective as _, DistError, Failure, ProcessGroup, Values, ValuesRef, conformance};

fn failure(result: &Result<Result<(), DistError>, DistError>) -> Failure {
    match result {
        Ok(Err(DistError::Failure(failure))) => failure.clone(),
        other => panic!("not a failure of the group: {other:?}"),
    }
}

fn sum(group: &ProcessGroup) -> Result<(), DistError> {
    group.all_reduce(Values::F32(&mut [1.0; 100]))
}

#[test]
fn every_number_of_ranks_conforms() {
    for size in 1..=5 {
        let results = run_ranks(
            size,
            |_| {},
            |group| {
                conformance::check_rank(&group, &conformance::LENGTHS);
                group.close()
            },
        );
        for result in results {
            result.unwrap().unwrap();
        }
    }
}

#[test]
fn a_single_rank_without_a_group_conforms_except_that_it_has_no_partner() {
    conformance::check_rank(&olmo_dist::Alone, &[0, 1, 100]);
}

#[test]
#[ignore = "takes 2 GiB; scripts/nightly runs it"]
fn large_arrays_conform() {
    for size in [2, 3, 5] {
        let results = run_ranks(
            size,
            |_| {},
            |group| {
                let mut values = vec![1.0f32; 64 << 20];
                group.all_reduce(Values::F32(&mut values)).unwrap();
                assert!(values.iter().all(|value| *value == size as f32));
                group.close()
            },
        );
        for result in results {
            result.unwrap().unwrap();
        }
    }
}

#[test]
fn background_operations_keep_their_order_and_overlap_with_the_caller() {
    let results = run_ranks(
        3,
        |_| {},
        |group| {
            let pending: Vec<_> = (0..20).map(|k| group.start_all_reduce(vec![k as f32; 5000])).collect();
            let mut last = [group.rank() as f64];
            group.all_reduce(Values::F64(&mut last)).unwrap();
            let sums: Vec<f32> = pending.into_iter().map(|p| p.wait().unwrap()[4999]).collect();
            let scattered = group.start_reduce_scatter(vec![2.0; 3]).wait().unwrap()[group.rank()];
            group.close().unwrap();
            (sums, last[0], scattered)
        },
    );
    for result in results {
        let (sums, last, scattered) = result.unwrap();
        assert_eq!(sums, (0..20).map(|k| 3.0 * k as f32).collect::<Vec<_>>());
        assert_eq!((last, scattered), (3.0, 6.0));
    }
}

#[test]
fn the_first_failing_rank_is_the_error_of_every_rank() {
    let results = run_ranks(
        3,
        |_| {},
        |group| {
            if group.rank() == 1 {
                return Err(group.fail("the disk is full"));
            }
            // This rank waits for rank 1 when it fails.
            let waiting = group.start_all_reduce(vec![0.0; 10]).wait().map(drop);
            assert_eq!(group.barrier().unwrap_err().to_string(), waiting.as_ref().unwrap_err().to_string());
            waiting
        },
    );
    for result in &results {
        assert_eq!(failure(result), Failure::Failed { rank: 1, message: "the disk is full".into() });
    }
}

#[test]
fn a_rank_that_closes_its_group_fails_only_the_ranks_that_need_it() {
    let results = run_ranks(
        3,
        |_| {},
        |group| {
            sum(&group)?;
            if group.rank() < 2 {
                // Rank 2 leaves first. The others still exchange values, also much at once.
                let (other, mut values) = (1 - group.rank(), vec![0.0; 4 << 20]);
                group.send(ValuesRef::F64(&vec![1.0; 4 << 20]), other)?;
                group.recv(Values::F64(&mut values), other)?;
                assert!(values.iter().all(|value| *value == 1.0));
            }
            group.close()
        },
    );
    for result in results {
        result.unwrap().unwrap();
    }

    let results = run_ranks(3, |_| {}, |group| if group.rank() == 2 { group.close() } else { sum(&group) });
    for result in &results[..2] {
        let Failure::Closed { rank: 2, operation } = failure(result) else { panic!("{result:?}") };
        assert_eq!(operation, "all_reduce of 100 f32 (operation 0)");
    }
}

#[test]
fn a_rank_that_drops_its_group_or_panics_fails_the_others() {
    let results = run_ranks(3, |_| {}, |group| if group.rank() == 0 { Ok(()) } else { sum(&group) });
    for result in &results[1..] {
        let expected = Failure::Failed { rank: 0, message: "it left the group without closing it".into() };
        assert_eq!(failure(result), expected);
    }
    let results = run_ranks(
        2,
        |_| {},
        |group| {
            if group.rank() == 0 {
                let bug = group.start_work(|_| -> Result<(), DistError> { panic!("a bug") });
                // The operations after it end, too.
                let after = group.start_all_reduce(vec![]);
                assert!(after.wait().is_err() && sum(&group).is_err());
                return bug.wait();
            }
            sum(&group)
        },
    );
    assert!(matches!(failure(&results[1]), Failure::Failed { rank: 0, message } if message.contains("panicked")));
}

#[test]
fn a_late_rank_is_named_with_the_operation() {
    let results = run_ranks(
        3,
        |join| join.limits.late = Duration::from_millis(300),
        |group| {
            sum(&group)?;
            if group.rank() == 1 {
                // Alive, and busy with something else until the others give up.
                while group.failure().is_none() {
                    sleep(Duration::from_millis(10));
                }
            }
            group.all_gather(Values::U8(&mut [0; 7]))
        },
    );
    for result in &results {
        let Failure::Late { ranks, operation, .. } = failure(result) else { panic!("{result:?}") };
        assert_eq!((ranks, operation.as_str()), (vec![1], "all_gather of 7 bytes (operation 1)"));
    }
}

#[test]
fn different_operations_are_an_error_that_names_both() {
    let results = run_ranks(
        2,
        |_| {},
        |group| if group.rank() == 0 { group.barrier() } else { group.broadcast(Values::F64(&mut [0.0; 3]), 0) },
    );
    for result in &results {
        let text = failure(result).to_string();
        assert!(text.contains("barrier (operation 0)") && text.contains("broadcast of 3 f64 (operation 0)"), "{text}");
    }
}
