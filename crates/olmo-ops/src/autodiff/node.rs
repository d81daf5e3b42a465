//! One node of Burn's graph, for every operation.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::tensor::Tensor;

use crate::carrier::Carrier;
use crate::device::Device;

/// Computes the gradient of the input from that of the result, and adds those of the weights.
pub(super) type Pass<B> = Box<dyn FnOnce(FloatTensor<B>) -> FloatTensor<B> + Send>;

/// A backward pass with its state, which is freed when it has run.
struct Once<B: Carrier>(Arc<Mutex<Option<Pass<B>>>>);

impl<B: Carrier> Clone for Once<B> {
    fn clone(&self) -> Self {
        Once(self.0.clone())
    }
}

impl<B: Carrier> fmt::Debug for Once<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a backward pass")
    }
}

#[derive(Debug)]
struct Node;

impl<B: Carrier> Backward<B, 1> for Node {
    type State = Once<B>;

    fn backward(self, ops: Ops<Once<B>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let pass = ops.state.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let gradient = pass.expect("a graph is walked through once")(grads.consume::<B>(&ops.node));
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            grads.register::<B>(parent.id, gradient);
        }
    }
}

/// The result of `forward` on the rows of `x`. If the device trains, it joins the graph. `forward`
/// receives whether a backward pass may follow, and then returns it.
pub(super) fn node<D: Device, const N: usize>(
    device: &D,
    x: Tensor<3>,
    forward: impl FnOnce(D::Array, bool) -> (FloatTensor<D::Backend>, Option<Pass<D::Backend>>),
) -> Tensor<N> {
    let width = x.dims()[2];
    if !device.trains() {
        let x = D::array(D::Backend::plain(x), width);
        return D::Backend::tensor(forward(x, false).0);
    }
    let (x, input) = D::Backend::tracked(x);
    let x = D::array(x, width);
    let preparation = Backward::<D::Backend, 1>::prepare::<NoCheckpointing>(Node, [input]);
    D::Backend::tracked_tensor(match preparation.compute_bound().stateful() {
        OpsKind::Tracked(preparation) => {
            let (result, pass) = forward(x, true);
            preparation.finish(Once(Arc::new(Mutex::new(pass))), result)
        }
        OpsKind::UnTracked(preparation) => preparation.finish(forward(x, false).0),
    })
}
