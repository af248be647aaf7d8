//! What adapters ask of a type that is one of several models: passed on to the one it is.

/// Implements [`Host`](adapters_core::Host) for an enum of models, given the macro that runs an expression on whichever it
/// holds. The names it uses must be in scope.
macro_rules! host_of {
    ($models:ty, $each:ident) => {
        impl Host for $models {
            fn architecture(&self) -> &str {
                $each!(self, model => model.architecture())
            }

            fn class_name(&self) -> &str {
                $each!(self, model => model.class_name())
            }

            fn d_model(&self) -> usize {
                $each!(self, model => model.d_model())
            }

            fn base_prefix(&self) -> &str {
                $each!(self, model => model.base_prefix())
            }

            fn is_larger_class(&self) -> bool {
                $each!(self, model => model.is_larger_class())
            }

            fn stores_input_first(&self, site: Site) -> bool {
                $each!(self, model => model.stores_input_first(site))
            }

            fn sites(&self) -> Vec<SiteInfo> {
                $each!(self, model => model.sites())
            }

            fn attention_name(&self, stack: adapters_core::Stack) -> &'static str {
                $each!(self, model => model.attention_name(stack))
            }

            fn attention_dropout(&self) -> f64 {
                $each!(self, model => model.attention_dropout())
            }

            fn linear(&self, site: Site) -> Option<&Linear> {
                $each!(self, model => model.linear(site))
            }

            fn linear_mut(&mut self, site: Site) -> Option<&mut Linear> {
                $each!(self, model => model.linear_mut(site))
            }

            fn norm(&self, site: Site) -> Option<NormWeight> {
                $each!(self, model => model.norm(site))
            }

            fn set_norm(&mut self, site: Site, parameters: NormWeight) -> Option<()> {
                $each!(self, model => model.set_norm(site, parameters))
            }

            fn table(&self, site: Site) -> Option<&Embedding> {
                $each!(self, model => model.table(site))
            }

            fn table_mut(&mut self, site: Site) -> Option<&mut Embedding> {
                $each!(self, model => model.table_mut(site))
            }
        }
    };
}

pub(crate) use host_of;
