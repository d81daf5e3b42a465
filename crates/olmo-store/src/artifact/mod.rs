//! Artifacts: their files ([`object`]), their manifests ([`lookup`]), sources that stay in place
//! ([`reference`]), and how a stage gets the files ([`handover`]).

pub(crate) mod handover;
mod lookup;
pub(crate) mod object;
pub(crate) mod reference;
