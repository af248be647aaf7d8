//! What a macro writes for a layer: the names of its parameters.

/// Implements [`NamedParams`](crate::NamedParams) for a layer from names and fields:
/// `named_params!(Layer: "lora_A" => a, "lora_B" => b; optional "bias" => bias; fixed a);`
///
/// `optional` fields are `Option<Param<_>>`, named where they are there; `fixed` ones are stored and never trained.
#[macro_export]
macro_rules! named_params {
    ($layer:ty: $($name:literal => $field:ident),* $(; optional $($opt_name:literal => $opt:ident),*)? $(; fixed $($fixed:ident),*)?) => {
        impl $crate::NamedParams for $layer {
            fn named_params(&self) -> Vec<(std::borrow::Cow<'static, str>, $crate::ParamId)> {
                let always: Vec<(std::borrow::Cow<'static, str>, _)> = vec![$(($name.into(), self.$field.id)),*];
                let maybe: Vec<Option<(std::borrow::Cow<'static, str>, _)>> =
                    vec![$($(self.$opt.as_ref().map(|param| ($opt_name.into(), param.id))),*)?];
                always.into_iter().chain(maybe.into_iter().flatten()).collect()
            }

            $(fn fixed_params(&self) -> Vec<$crate::ParamId> {
                vec![$(self.$fixed.id),*]
            })?
        }
    };
}
