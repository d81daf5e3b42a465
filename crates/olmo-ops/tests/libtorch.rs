//! What `olmo-torch` promises of its products.
#![cfg(feature = "libtorch")]

use olmo_torch::{Matrix, gemm, keep_to_one_thread};

#[test]
fn products_read_any_strides_and_are_written_or_added() {
    keep_to_one_thread();
    let (a, b) = ([1f32, 2.0, 3.0, 4.0, 5.0, 6.0], [1f32, 0.0, 2.0, 1.0, 0.0, 3.0]);
    let rows = Matrix { start: a.as_ptr(), size: [2, 3], strides: [3, 1] };
    let columns = Matrix { start: b.as_ptr(), size: [3, 2], strides: [1, 3] };
    let mut c = [7f32; 6];
    // SAFETY: sizes and strides are those of the arrays.
    unsafe { gemm(rows, columns, c.as_mut_ptr(), 3, false) };
    assert_eq!([c[0], c[1], c[3], c[4]], [7.0, 10.0, 16.0, 22.0]);
    assert_eq!([c[2], c[5]], [7.0, 7.0], "what lies between the rows stays");
    // SAFETY: as before.
    unsafe { gemm(rows, columns, c.as_mut_ptr(), 3, true) };
    assert_eq!([c[0], c[1], c[3], c[4]], [14.0, 20.0, 32.0, 44.0]);
}
