//! A forward pass: its options, the hooks a model calls, and how a composition of adapters acts at them.
//!
//! # A pass
//!
//! A caller describes the pass in a [`Ctx`](crate::Ctx): which adapters are active, whether dropout is on, which task each
//! row has. The model begins the pass with [`Ctx::begin`](crate::Ctx::begin), which checks the input against the
//! composition, repeats the batch for the branches of a `Parallel` block, and returns the [`Hooks`](crate::Hooks). A hook
//! cannot be called before that.
//!
//! # The algebra of composition
//!
//! Three kinds of objects take part at a site:
//!
//! - a *state* `s` ([`HookState`](crate::HookState)): what the hook hands to adapters, e.g. the input of a linear layer,
//!   the frozen layer, and the sum of the updates so far;
//! - an *adapter's layer* `f` ([`SiteAdapter`](crate::SiteAdapter)): `open` prepares the state, `apply` is what the
//!   adapter does to it;
//! - a *finisher* ([`Finisher`](crate::Finisher)): turns the last state into the output of the hook. A layer may have its
//!   own; without one the state finishes itself, which at a linear layer is `W x + b + delta`.
//!
//! A block maps a state to a state and a finisher, `[[B]](s) = (s', e)`. A block none of whose adapters has a layer at the
//! site is the identity, and has no finisher. `f.open` below stands for the first adapter of the block that has a layer
//! at the site, `g` for the last.
//!
//! | Block | State | Finisher |
//! |---|---|---|
//! | adapter `f` | `f.apply(f.open(s))` | of `f` |
//! | `Stack(B_1 .. B_n)` | `B_n(.. B_1(s))` | of the last block that has one |
//! | `Average(B_1 .. B_n, w)` | `(1 / n) sum_i w_i B_i'(f.open(s))` | of the last block that has one |
//! | `Split(B_1 .. B_n)` | the positions of `f.open(s)` in ranges, `B_i'` on the `i`th, joined | of `g` |
//! | `Fuse(B_1 .. B_n)` | the fusion layer over what each `B_i'(f.open(s))` adds, `f` and `g` both the last adapter | of `g` |
//! | `MultiTask`, `BatchSplit`, `Parallel` | see below | see below |
//!
//! `B'` is `B` without its own `open` if `B` is a single adapter, and `B` otherwise: blocks whose children act side by side
//! open the site once. This is the rule of the reference implementation.
//!
//! The outermost `Split` finishes each of its ranges by itself and joins the outputs, so that its adapters may change
//! the frozen layer.
//!
//! # Rows
//!
//! `MultiTask`, `BatchSplit` and `Parallel` choose a child for each row of the batch. For one row they are therefore nothing but
//! the chosen child. When the pass begins, the rows of the batch are grouped by their choices ([`rows`]): the rows of a
//! group see the same composition, made of the other blocks only. At a site each group takes its rows of the state, runs,
//! and finishes; the outputs are joined in the order of the batch. Where all adapters only add to the output of a
//! frozen layer, the sums of their updates are joined instead, and the frozen layer runs once on the whole batch.
//!
//! What remains of the block: `BatchSplit` and `Parallel` open the site by the first adapter of the whole block, and where
//! adapters join the residual stream ([`HookState::ONE_FINISHER`](crate::HookState::ONE_FINISHER)) they finish by its last,
//! as the reference implementation does. In `MultiTask` each child opens and finishes for its own rows.
//!
//! # Sites where one adapter acts
//!
//! Where a sequence is changed as a whole ([`HookState::FIRST_ONLY`](crate::HookState::FIRST_ONLY)), each row is changed by
//! the first adapter of what it sees and by no other.
//!
//! # Cost
//!
//! [`plan`] resolves the composition once in a pass: from each site to the layers of the active adapters. A hook is one
//! look-up in that table. At a site without an adapter nothing else happens.

pub(crate) mod batch;
pub(crate) mod call;
pub(crate) mod compose;
pub(crate) mod ctx;
pub(crate) mod forward;
mod fuse;
pub(crate) mod hooks;
pub(crate) mod memo;
pub(crate) mod plan;
pub(crate) mod record;
pub(crate) mod rows;
pub(crate) mod state;
