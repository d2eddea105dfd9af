"""Trains a built-in model: `python -m builtin_model.train sage-tiny --minutes 65 --work DIR`.

The run is bounded by training time, shows its progress, goes on from its checkpoint when started again with the same
folder, and ends with the exported model and a report. The draft model learns from the finished main model.
"""

import argparse
import json
import os
import time
from pathlib import Path

import torch
from rich.progress import Progress as Bar
from tokenizers import Tokenizer
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F
from torch.optim import Optimizer

from builtin_model.checkpoint import Progress, load_checkpoint, save_checkpoint
from builtin_model.data import Batch, batches
from builtin_model.export import export_model, load_model
from builtin_model.model import Llama
from builtin_model.optimizer import build_optimizers, set_progress
from builtin_model.parallel import Group
from builtin_model.planting import plant_copying
from builtin_model.presets import BUILTIN_FOLDER, SHAPES
from builtin_model.tokenizer import train_tokenizer, write_tokenizer

TOKENS_A_STEP = 6144
ROWS_OF_SCORES = 512
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "8192",
}
"""Keeps what a step frees, whose pages would be faulted in anew, and the kernels for every length of a document."""
SECONDS_BETWEEN_CHECKPOINTS = 120


def losses_of(model: Llama, hidden_ND: Tensor, targets_N: Tensor, teacher: Llama | None, taught_ND: Tensor) -> Tensor:
    """Losses [N] of the next tokens: cross entropy, or divergence from a teacher (Hinton et al., 2015)."""
    scores_NV = model.logits(hidden_ND).float()
    if teacher is None:
        return F.cross_entropy(scores_NV, targets_N, reduction="none")
    with torch.no_grad():
        wanted_NV = F.log_softmax(teacher.logits(taught_ND).float(), -1)
    return F.kl_div(F.log_softmax(scores_NV, -1), wanted_NV, reduction="none", log_target=True).sum(-1)


def loss_of(model: Llama, batch: Batch, teacher: Llama | None) -> Tensor:
    """Weighted mean loss of the next token, a few hundred rows of scores at a time."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens_BT, weights_N = batch.tokens_T[None], batch.weights_T[1:]
        hidden_ND = taught_ND = model.hidden(tokens_BT, batch.lengths)[0, :-1]
        if teacher is not None:
            with torch.no_grad():
                taught_ND = teacher.hidden(tokens_BT, batch.lengths)[0, :-1]
        rows = (torch.split(t, ROWS_OF_SCORES) for t in (hidden_ND, batch.tokens_T[1:], taught_ND))
        losses = [
            losses_of(model, hidden, targets, teacher, taught) for hidden, targets, taught in zip(*rows, strict=True)
        ]
    return (torch.cat(losses) * weights_N).sum() / weights_N.sum()


def update(model: Llama, optimizers: list[Optimizer]) -> None:
    """One update of the weights by the gradients, which are used up."""
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


class Run:
    """One process of a training run in one folder."""

    def __init__(self, name: str, minutes: float, work: Path, out: Path, group: Group) -> None:
        torch.manual_seed(0)
        self.name, self.budget_s, self.work, self.out, self.group = name, minutes * 60, work, out, group
        self.tokenizer = self._tokenizer()
        self.model = Llama(SHAPES[name])
        plant_copying(self.model)
        self.optimizers = build_optimizers(self.model)
        self.checkpoint = work / f"{name}.pt"
        self.progress = load_checkpoint(self.checkpoint, self.model, self.optimizers)
        self.teacher = load_model(SHAPES["sage-tiny"], out / "sage-tiny") if name.endswith("draft") else None

    def _tokenizer(self) -> Tokenizer:
        folder = self.out / "sage-tiny"
        if not (folder / "tokenizer.json").exists():
            write_tokenizer(train_tokenizer(), folder)
        return Tokenizer.from_file(str(folder / "tokenizer.json"))

    def train(self) -> None:
        """Trains until the time is spent."""
        with Bar(disable=not self.group.leads) as bar:
            bar.add_task(self.name, total=self.budget_s, completed=int(self.progress.seconds))
            if self.progress.seconds < self.budget_s:
                self._steps(bar)
        self._save()

    def _steps(self, bar: Bar) -> None:
        state, saved_s = self.progress, self.progress.seconds
        num_tokens = TOKENS_A_STEP // self.group.size
        stream = batches(self.tokenizer, f"train/{self.group.rank}", state.shard + 1, num_tokens)
        began = time.monotonic() - state.seconds
        for shard, batch in stream:
            set_progress(self.optimizers, state.seconds / self.budget_s)
            loss = loss_of(self.model, batch, self.teacher)
            loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
            own_time = time.monotonic() - began if self.group.leads else 0.0
            own_tokens = float((batch.weights_T > 0).sum())
            mean, tokens, state.seconds = self.group.share(
                self.model, [loss.item() / self.group.size, own_tokens, own_time]
            )
            update(self.model, self.optimizers)
            state.loss = mean if state.steps == 0 else 0.98 * state.loss + 0.02 * mean
            state.steps, state.shard, state.tokens = state.steps + 1, shard, state.tokens + int(tokens)
            self._show(bar)
            if state.seconds - saved_s > SECONDS_BETWEEN_CHECKPOINTS:
                self._save()
                saved_s = state.seconds
            if state.seconds >= self.budget_s:
                return

    def _show(self, bar: Bar) -> None:
        state = self.progress
        shown = f"{self.name} step {state.steps} loss {state.loss:.3f} {state.tokens / 1e6:.2f} Mtok"
        bar.update(bar.task_ids[0], completed=state.seconds, description=shown)
        if state.steps % 20 == 0 and self.group.leads:
            with (self.work / f"{self.name}.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(vars(state)) + "\n")

    def _save(self) -> None:
        if not self.group.leads:
            return
        save_checkpoint(self.checkpoint, self.model, self.optimizers, self.progress)
        export_model(self.model, self.tokenizer, self.work / self.name)

    def finish(self) -> Progress:
        """Puts the model in its place and writes the report."""
        folder = self.out / self.name
        write_tokenizer(self.tokenizer, folder)
        export_model(self.model, self.tokenizer, folder)
        report = {
            "model": self.name,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "tokens": self.progress.tokens,
            "steps": self.progress.steps,
            "minutes": round(self.progress.seconds / 60, 1),
            "final_loss": round(self.progress.loss, 4),
            "threads": self.group.size * torch.get_num_threads(),
        }
        (folder / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(report, indent=2))
        return self.progress


def main() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(SHAPES))
    parser.add_argument("--minutes", type=float, default=65.0, help="training time in all, resumed runs included")
    parser.add_argument("--work", type=Path, default=Path("build/builtin_model"), help="checkpoints and logs")
    parser.add_argument("--out", type=Path, default=BUILTIN_FOLDER, help="where the finished model goes")
    parser.add_argument("--processes", type=int, default=2, help="each uses one thread")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    meeting_point = options.work / f"{options.name}.meeting"
    meeting_point.unlink(missing_ok=True)
    os.environ.update(ENVIRONMENT)
    spawn(  # type: ignore[no-untyped-call]  # torch does not annotate it
        run_process, args=(options, meeting_point), nprocs=options.processes
    )


def run_process(rank: int, options: argparse.Namespace, meeting_point: Path) -> None:
    """One process of the run; the leading one writes the finished model."""
    torch.set_num_threads(1)
    group = Group(rank, options.processes, meeting_point)
    run = Run(options.name, options.minutes, options.work, options.out, group)
    run.train()
    if group.leads:
        run.finish()


if __name__ == "__main__":
    main()
