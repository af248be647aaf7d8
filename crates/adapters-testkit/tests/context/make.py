"""Makes expected.safetensors with peft 0.21.2: make.py GOLDEN OUT, where GOLDEN is golden/ of this crate. The loss over the outputs in a
context, and its gradient, of a new adapter of context-aware prompt tuning."""
import sys, torch
from peft import CPTConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

GOLDEN, OUT = sys.argv[1:]
torch.set_num_threads(1)
ids = torch.tensor([[5, 9, 3, 14, 7, 11], [8, 2, 11, 6, 1, 4]])
labels = ids.clone()
labels[:, :3] = -100
tensors = {}
for kind in ["none", "decay"]:
    config = CPTConfig(
        task_type="CAUSAL_LM",
        cpt_token_ids=[7, 9, 8, 30, 31, 6, 12, 40, 41, 5],
        cpt_tokens_type_mask=[1, 2, 2, 3, 4, 5, 6, 7, 8, 8],
        opt_weighted_loss_type=kind,
        opt_loss_decay_factor=0.6,
    )
    model = get_peft_model(LlamaForCausalLM.from_pretrained(f"{GOLDEN}/llama/base"), config).eval()
    loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
    loss.backward()
    tensors[f"{kind}.loss"] = loss.detach()[None]
    tensors[f"{kind}.gradient"] = model.prompt_encoder["default"].delta_embedding.weight.grad
save_file(tensors, f"{OUT}/expected.safetensors")
