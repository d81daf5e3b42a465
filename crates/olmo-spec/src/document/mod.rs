//! What a document may say: its types ([`documents`]), their strict schemas ([`strict`]), the check of
//! a node against a schema ([`check`]), and the stages that can be used ([`catalog`]).

pub(crate) mod catalog;
pub(crate) mod check;
pub(crate) mod documents;
pub(crate) mod instance;
pub(crate) mod prepare;
pub(crate) mod retry;
pub(crate) mod strict;
