"""Makes the cases of this folder with Python's adapters 1.3.0: make.py BASE INPUTS OUT, where BASE is golden/bert/base and INPUTS
golden/bert/inputs.safetensors of this crate."""
import json, os, shutil, sys, torch
from safetensors.torch import save_file, load_file
import adapters
from adapters import BertAdapterModel
torch.manual_seed(0); torch.set_num_threads(1)
BASE, INPUTS, OUT = sys.argv[1:]
inp=load_file(INPUTS)
ids, mask = inp["input_ids"], inp["attention_mask"]
B,T=ids.shape
g=torch.Generator().manual_seed(5)
def ri(hi, shape): return torch.randint(0, hi, shape, generator=g)
def fresh(): 
    m=BertAdapterModel.from_pretrained(BASE); m.eval(); return m
def draw(head):
    for n,p in head.named_parameters():
        p.data=torch.randn(p.shape, generator=g)*(0.3 if p.dim()>1 else 0.5)
def save_head(m, d, name):
    m.config.name_or_path = ""
    os.makedirs(d, exist_ok=True)
    m.save_head(d, name, use_safetensors=True)
    path = os.path.join(d, "head_config.json")
    config = json.load(open(path))
    config["model_name"] = ""  # a path of the machine
    json.dump(config, open(path, "w"), indent=2, sort_keys=True)
cases={
 "classification": (lambda m: m.add_classification_head("h", num_labels=3, id2label={0:"bad",2:"good",1:"so-so"}), {"labels": ri(3,(B,))}),
 "classification_deep": (lambda m: m.add_prediction_head_from_config("h", {"head_type":"classification","num_labels":4,"layers":3,"activation_function":"gelu","bias":False}), {"labels": ri(4,(B,))}),
 "classification_no_activation": (lambda m: m.add_classification_head("h", num_labels=2, layers=2, activation_function=None), {"labels": ri(2,(B,))}),
 "classification_pooler": (lambda m: m.add_classification_head("h", num_labels=2, layers=1, use_pooler=True), {"labels": ri(2,(B,))}),
 "regression": (lambda m: m.add_classification_head("h", num_labels=1, layers=2), {"labels": torch.randn((B,),generator=g)}),
 "multilabel": (lambda m: m.add_classification_head("h", num_labels=3, multilabel=True), {"labels": ri(2,(B,3)).float()}),
 "tagging": (lambda m: m.add_tagging_head("h", num_labels=5, layers=2), {"labels": torch.where(ri(4,(B,T))==0, torch.tensor(-100), ri(5,(B,T)))}),
 "question_answering": (lambda m: m.add_qa_head("h", layers=1), {"start_positions": torch.tensor([1]+[T+3]*(B-1)), "end_positions": ri(T,(B,))}),
 "masked_lm": (lambda m: m.add_masked_lm_head("h"), {"labels": torch.where(ri(2,(B,T))==0, torch.tensor(-100), ri(100,(B,T)))}),
 "causal_lm": (lambda m: m.add_causal_lm_head("h", activation_function="relu"), {"labels": torch.where(mask==0, torch.tensor(-100), ids)}),
}
def record(name, m, labels, ids=ids, mask=mask):
    d=f"{OUT}/{name}"; os.makedirs(d)
    draw(m.heads["h"])
    if name in("masked_lm","causal_lm"):
        m.tie_weights()
        # the drawn decoder replaced the word embeddings where it is tied: reload the base
        sd=load_file(os.path.join(BASE, "model.safetensors"))
        k=[k for k in sd if k.endswith("word_embeddings.weight")][0]
        m.bert.embeddings.word_embeddings.weight.data=sd[k].clone()
        m.heads["h"].get_output_embeddings().weight = m.bert.embeddings.word_embeddings.weight
    labels={k:v.clone() for k,v in labels.items()}
    want={k:v.clone() for k,v in labels.items()}
    m.zero_grad()
    out=m(input_ids=ids, attention_mask=mask, head="h", **labels)
    out.loss.backward()
    t={"loss": out.loss.detach().reshape(1)}
    if name=="question_answering": t["start"]=out.start_logits.detach(); t["end"]=out.end_logits.detach()
    else: t["logits"]=out.logits.detach()
    for k,v in want.items(): t[k]=v
    for n,p in m.heads["h"].named_parameters():
        if p.grad is not None and not (name in("masked_lm","causal_lm") and p is m.bert.embeddings.word_embeddings.weight): t["grad/"+n]=p.grad.detach().clone()
    if ids.shape!=(B,T): t["input_ids"]=ids; t["attention_mask"]=mask
    save_head(m, d, "h")
    save_file({k:v.contiguous() for k,v in t.items()}, f"{d}/expected.safetensors")
for n,(add,labels) in cases.items():
    m=fresh(); add(m); record(n,m,labels)
# multiple choice: 2 questions of 2 texts
m=fresh(); m.add_multiple_choice_head("h", num_choices=2, layers=2)
r4=torch.arange(4)%B
record("multiple_choice", m, {"labels": ri(2,(2,))}, ids[r4].clone(), mask[r4].clone())
# average of two heads
m=fresh()
for n in "ab": m.add_classification_head(n, num_labels=3); draw(m.heads[n])
for n in "ab": save_head(m, f"{OUT}/average/{n}", n)
m.average_head("ab", ["a","b"], weights=[1.0, 3.0])
save_head(m, f"{OUT}/average/ab", "ab")
