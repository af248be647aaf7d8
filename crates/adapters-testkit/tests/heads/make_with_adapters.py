"""Heads with adapters: after Parallel, and with a prompt in front. comp.py BASE INPUTS OUT"""
import json, os, shutil, sys, torch
from safetensors.torch import save_file, load_file
import adapters
from adapters import BertAdapterModel, SeqBnConfig, PromptTuningConfig
import adapters.composition as ac
BASE, INPUTS, OUT = sys.argv[1:]
inp=load_file(INPUTS); ids, mask = inp["input_ids"], inp["attention_mask"]; B,T=ids.shape
g=torch.Generator().manual_seed(9)
def fresh():
    m=BertAdapterModel.from_pretrained(BASE, attn_implementation="eager"); m.eval(); m.config.name_or_path=""; return m
def draw(m, name):
    for n,p in m.named_parameters():
        if f".{name}." in n or n.endswith("."+name): p.data=torch.randn(p.shape, generator=g)*0.3
def clean(d):
    for f in os.listdir(d):
        if f.endswith("config.json"):
            c=json.load(open(f"{d}/{f}"))
            if "model_name" in c: c["model_name"]=""
            json.dump(c, open(f"{d}/{f}","w"), indent=2, sort_keys=True)
def save(m, d, name):
    os.makedirs(d); m.save_adapter(d, name, with_head=False, use_safetensors=True); m.save_head(d, name, use_safetensors=True); clean(d)
m=fresh()
for n,k in (("a",3),("b",2)):
    m.add_adapter(n, config=SeqBnConfig(reduction_factor=8)); m.add_classification_head(n, num_labels=k, layers=2); draw(m,n); save(m,f"{OUT}/parallel/{n}",n)
m.set_active_adapters(ac.Parallel("a","b")); print(m.active_head)
with torch.no_grad(): out=m(input_ids=ids, attention_mask=mask)
save_file({"a":out[0].logits.contiguous(),"b":out[1].logits.contiguous()}, f"{OUT}/parallel/expected.safetensors")
m.set_active_adapters(ac.BatchSplit("a","b",batch_sizes=[1,B-1])); print(m.active_head)
try:
    with torch.no_grad(): out=m(input_ids=ids, attention_mask=mask)
    t=load_file(f"{OUT}/parallel/expected.safetensors"); t["split_a"]=out[0].logits.contiguous(); t["split_b"]=out[1].logits.contiguous(); save_file(t, f"{OUT}/parallel/expected.safetensors")
except Exception as e: print("batchsplit", repr(e)[:200])
m=fresh(); m.add_adapter("p", config=PromptTuningConfig(prompt_length=3)); m.add_tagging_head("p", num_labels=4); draw(m,"p"); save(m,f"{OUT}/prompt/p","p")
m.set_active_adapters("p")
labels=torch.randint(0,4,(B,T),generator=g)
print([n for n,_ in m.named_parameters() if "prompt" in n])
full=ids
with torch.no_grad(): out=m(input_ids=ids, attention_mask=mask, labels=labels.clone())
m.add_classification_head("c", num_labels=2, layers=1); draw(m,"c"); os.makedirs(f"{OUT}/prompt/c"); m.save_head(f"{OUT}/prompt/c","c",use_safetensors=True); clean(f"{OUT}/prompt/c")
with torch.no_grad(): cls=m(input_ids=ids, attention_mask=mask, head="c")
save_file({"logits":out.logits.contiguous(),"loss":out.loss.reshape(1),"labels":labels,"classification":cls.logits.contiguous()}, f"{OUT}/prompt/expected.safetensors")
print(out.logits.shape, float(out.loss), cls.logits.shape)
