//! T5 as adapters see it: its sites, and the weights at them.

use adapters_core::{Host, NormWeight, Normalization, Role, Site, SiteInfo, SiteKind, Stack};
use burn::nn::{Embedding, Linear, RmsNorm};

use crate::t5::{EMBEDDING, LM_HEAD, PREFIX, T5Attention, T5Config, T5Layer, T5Model, T5Stack, TOKENS, WORDS};

impl T5Model {
    fn stack(&self, site: Site) -> &T5Stack {
        match site.stack {
            Stack::Encoder => &self.encoder,
            Stack::Decoder | Stack::Cross => &self.decoder,
        }
    }

    fn stack_mut(&mut self, site: Site) -> &mut T5Stack {
        match site.stack {
            Stack::Encoder => &mut self.encoder,
            Stack::Decoder | Stack::Cross => &mut self.decoder,
        }
    }
}

impl T5Stack {
    fn layer(&self, site: Site) -> Option<&T5Layer> {
        let first = self.layers.first()?.index;
        self.layers.get(site.layer?.checked_sub(first)?)
    }

    fn layer_mut(&mut self, site: Site) -> Option<&mut T5Layer> {
        let first = self.layers.first()?.index;
        self.layers.get_mut(site.layer?.checked_sub(first)?)
    }
}

impl T5Attention {
    fn linear(&self, role: Role) -> Option<&Linear> {
        Some(match role {
            Role::Query => &self.query,
            Role::Key => &self.key,
            Role::Value => &self.value,
            Role::AttentionOutput => &self.output,
            _ => return None,
        })
    }

    fn linear_mut(&mut self, role: Role) -> Option<&mut Linear> {
        Some(match role {
            Role::Query => &mut self.query,
            Role::Key => &mut self.key,
            Role::Value => &mut self.value,
            Role::AttentionOutput => &mut self.output,
            _ => return None,
        })
    }
}

impl T5Layer {
    fn linear(&self, site: Site) -> Option<&Linear> {
        match (site.stack, site.role) {
            (Stack::Cross, role) => self.cross.as_ref()?.attention.linear(role),
            (_, Role::FfnUp) => Some(&self.feed_forward.up),
            (_, Role::FfnGate) => self.feed_forward.gate.as_ref(),
            (_, Role::FfnDown) => Some(&self.feed_forward.down),
            (_, role) => self.attention.linear(role),
        }
    }

    fn linear_mut(&mut self, site: Site) -> Option<&mut Linear> {
        match (site.stack, site.role) {
            (Stack::Cross, role) => self.cross.as_mut()?.attention.linear_mut(role),
            (_, Role::FfnUp) => Some(&mut self.feed_forward.up),
            (_, Role::FfnGate) => self.feed_forward.gate.as_mut(),
            (_, Role::FfnDown) => Some(&mut self.feed_forward.down),
            (_, role) => self.attention.linear_mut(role),
        }
    }

    fn norm_mut(&mut self, site: Site) -> Option<&mut RmsNorm> {
        Some(match (site.stack, site.role) {
            (Stack::Cross, Role::AttentionNorm) => &mut self.cross.as_mut()?.norm,
            (_, Role::AttentionNorm) => &mut self.norm,
            (_, Role::FfnNorm) => &mut self.feed_forward_norm,
            _ => return None,
        })
    }

    fn norm(&self, site: Site) -> Option<&RmsNorm> {
        Some(match (site.stack, site.role) {
            (Stack::Cross, Role::AttentionNorm) => &self.cross.as_ref()?.norm,
            (_, Role::AttentionNorm) => &self.norm,
            (_, Role::FfnNorm) => &self.feed_forward_norm,
            _ => return None,
        })
    }

    /// The sites of this layer, whose path in the checkpoint is `path`.
    fn sites(&self, path: &str, config: &T5Config) -> Vec<SiteInfo> {
        let (d, ffn, heads, d_head) = (config.d_model, config.d_ff, config.num_heads, config.d_kv);
        let inner = heads * d_head;
        let linear = |d_in, d_out| SiteKind::Linear { d_in, d_out };
        let (norm, hidden) = (SiteKind::Norm { d_model: d }, SiteKind::Hidden { d_model: d });
        let attention = |name: &'static str| {
            [
                (Role::AttentionNorm, norm, "layer_norm".to_owned()),
                (Role::Query, linear(d, inner), format!("{name}.q")),
                (Role::Key, linear(d, inner), format!("{name}.k")),
                (Role::Value, linear(d, inner), format!("{name}.v")),
                (Role::KeyValue, SiteKind::KeyValue { heads, d_head }, name.to_owned()),
                (Role::AttentionOutput, linear(inner, d), format!("{name}.o")),
            ]
        };
        let mut sites = Vec::new();
        let mut add = |stack, role, kind, rest: &str| {
            let site = Site::new(stack, self.index, role);
            sites.push(SiteInfo::new(site, kind, format!("{path}{rest}")));
        };
        for (role, kind, rest) in attention("SelfAttention") {
            add(self.stack, role, kind, &format!(".layer.0.{rest}"));
        }
        add(self.stack, Role::AfterAttention, hidden, ".layer.0");
        let mut last = ".layer.1";
        if self.cross.is_some() {
            last = ".layer.2";
            for (role, kind, rest) in attention("EncDecAttention") {
                add(Stack::Cross, role, kind, &format!(".layer.1.{rest}"));
            }
            // Its residual connection is one of the decoder's.
            add(self.stack, Role::AfterCrossAttention, hidden, ".layer.1");
        }
        add(self.stack, Role::FfnNorm, norm, &format!("{last}.layer_norm"));
        let mut dense = |role, d_in, d_out, rest: &str| {
            add(
                self.stack,
                role,
                linear(d_in, d_out),
                &format!("{last}.DenseReluDense.{rest}"),
            );
        };
        match self.feed_forward.gate {
            Some(_) => {
                dense(Role::FfnGate, d, ffn, "wi_0");
                dense(Role::FfnUp, d, ffn, "wi_1");
            }
            None => dense(Role::FfnUp, d, ffn, "wi"),
        }
        dense(Role::FfnDown, ffn, d, "wo");
        add(self.stack, Role::AfterFfn, hidden, last);
        add(self.stack, Role::LayerOutput, SiteKind::LayerOutput { d_model: d }, "");
        sites
    }
}

impl Host for T5Model {
    fn architecture(&self) -> &str {
        "t5"
    }

    fn class_name(&self) -> &str {
        "T5ForConditionalGeneration"
    }

    fn d_model(&self) -> usize {
        self.config.d_model
    }

    fn base_prefix(&self) -> &str {
        PREFIX
    }

    fn sites(&self) -> Vec<SiteInfo> {
        let d = self.config.d_model;
        let words = SiteKind::Table {
            rows: self.config.vocab_size,
            d_model: d,
            padding: None,
        };
        let mut sites = vec![
            SiteInfo::new(WORDS, words, "shared"),
            SiteInfo::new(TOKENS, SiteKind::Embedding { d_model: d }, "encoder.embed_tokens"),
            SiteInfo::new(EMBEDDING, SiteKind::Embedding { d_model: d }, "encoder.embed_tokens"),
        ];
        for (stack, name) in [(&self.encoder, "encoder"), (&self.decoder, "decoder")] {
            for (index, layer) in stack.layers.iter().enumerate() {
                sites.extend(layer.sites(&format!("{name}.block.{index}"), &self.config));
            }
            let norm = Site::outside(stack.stack, Role::FinalNorm);
            let path = format!("{name}.final_layer_norm");
            sites.push(SiteInfo::new(norm, SiteKind::Norm { d_model: d }, path));
        }
        if self.lm_head.is_some() {
            let kind = SiteKind::Linear {
                d_in: d,
                d_out: self.config.vocab_size,
            };
            sites.push(SiteInfo::new(LM_HEAD, kind, "lm_head"));
        }
        sites
    }

    fn linear(&self, site: Site) -> Option<&Linear> {
        match site == LM_HEAD {
            true => self.lm_head.as_ref(),
            false => self.stack(site).layer(site)?.linear(site),
        }
    }

    fn linear_mut(&mut self, site: Site) -> Option<&mut Linear> {
        match site == LM_HEAD {
            true => self.lm_head.as_mut(),
            false => self.stack_mut(site).layer_mut(site)?.linear_mut(site),
        }
    }

    fn norm(&self, site: Site) -> Option<NormWeight> {
        let stack = self.stack(site);
        let norm = match site.role {
            Role::FinalNorm => &stack.norm,
            _ => stack.layer(site)?.norm(site)?,
        };
        Some(norm.parameters())
    }

    fn set_norm(&mut self, site: Site, parameters: NormWeight) -> Option<()> {
        let stack = self.stack_mut(site);
        let norm = match site.role {
            Role::FinalNorm => &mut stack.norm,
            _ => stack.layer_mut(site)?.norm_mut(site)?,
        };
        *norm = norm.clone().with_parameters(parameters);
        Some(())
    }

    fn table(&self, site: Site) -> Option<&Embedding> {
        (site == WORDS).then_some(&self.shared)
    }

    fn table_mut(&mut self, site: Site) -> Option<&mut Embedding> {
        (site == WORDS).then_some(&mut self.shared)
    }
}
