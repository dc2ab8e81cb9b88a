//! The short form of the metadata soak; `make soak-metadata` is the long one.

use torus_tests::soak::{Form, run};

#[test]
fn what_clients_see_of_a_group_under_every_kind_of_fault_is_linearizable() {
    let report = run(1, Form::Short);
    println!("{report}");
    assert!(report.passed());
}
