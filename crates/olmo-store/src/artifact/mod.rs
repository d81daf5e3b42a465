//! Artifacts: their files ([`object`]), the manifest that lists them ([`manifest`]), sources that
//! stay where they are ([`reference`]), and how a stage gets the files ([`handover`]).

pub(crate) mod handover;
pub(crate) mod manifest;
pub(crate) mod object;
pub(crate) mod reference;
