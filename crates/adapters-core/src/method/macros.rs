//! What a macro writes for a method: the names of a layer's parameters, the modules of a configuration.

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

/// Implements [`PeftModules`](crate::PeftModules) for a configuration with a field `targets` of
/// [`ModuleFields`](crate::target::ModuleFields): `peft_modules!(Loha: "LOHA");`. Functions of the trait with a default may
/// follow in braces.
#[macro_export]
macro_rules! peft_modules {
    ($config:ty: $peft_type:literal $({ $($override:tt)* })?) => {
        impl $crate::PeftModules for $config {
            const PEFT_TYPE: &'static str = $peft_type;

            fn modules(&self) -> &$crate::target::ModuleFields {
                &self.targets
            }

            fn modules_mut(&mut self) -> &mut $crate::target::ModuleFields {
                &mut self.targets
            }

            $($($override)*)?
        }
    };
}
