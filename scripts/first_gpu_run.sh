#!/bin/bash
# The first ten minutes on a GPU: commands and expected values. Nothing here has run on a GPU yet.
#
#     pip install -c constraints.txt -e '.[dev]'   # with the CUDA build of torch
#     bash scripts/first_gpu_run.sh                # writes results/first_gpu_run/report.md
#
# The report can be copied into docs/performance.md as a section. Differences from the expected values
# are findings. DEVICE=cpu uses small sizes and only shows that the script works.
set -u
cd "$(dirname "$0")/.." || exit 1
DEVICE=${DEVICE:-cuda}
OUT=${OUT:-results/first_gpu_run}
CONFIG=configs/lgm_net_budget.yaml
BASE=(data.train=builtin "data.validation=configs/validation/builtin.txt" "data.exclude=[]"
    "evaluation.datasets=[builtin]" training.compile=false)
ENOUGH=4096 # crops of 128 x 128 that no GPU holds
SIDES="64 128"
STEPS=20
VARIANTS=(training.compile=false training.compile=true "training.compile=true training.cuda_graphs=true" training.precision=tf32
    training.precision=fp32)
FLAGS=("" "--fast" "--precision tf32" "--fast --precision bf16")
if [ "$DEVICE" = cpu ]; then
    BASE+=(model.D=1 model.dim=2 model.dimf=2 training.batch_size=2 training.precision=fp32)
    ENOUGH=2 STEPS=4 SIDES=64 VARIANTS=(training.compile=false) FLAGS=("--precision tf32")
fi
mkdir -p "$OUT"
report="$OUT/report.md"
: > "$report"

say() { echo "$*" | tee -a "$report"; }
section() { say; say "### $1"; say; say "Expected: $2"; say; }
# Output without progress bars and empty lines.
plain() { tr '\r' '\n' | grep -v -E '%\||^ *$'; }
# run SECONDS COMMAND: its output, between fences.
run() {
    local limit=$1 status
    shift
    say '```'
    timeout "$limit" "$@" 2>&1 | plain | tee -a "$report"
    status=${PIPESTATUS[0]}
    say '```'
    [ "$status" = 0 ] || say "exit status $status"
}
train() { python train.py "$CONFIG" "${BASE[@]}" --device "$DEVICE" "$@"; }
# losses FOLDER: step and loss of a run's last lines.
losses() { grep '"train"' "$1/log.jsonl" | tail -n 2 | sed -E 's/.*"step": ([0-9]+).*"loss": ([0-9.e-]+).*/step \1, loss \2/'; }

section "The machine" "its name, and TF32 allowed in cuDNN alone, as PyTorch ships."
run 60 python - << 'P'
import torch
print(torch.__version__, "CUDA", torch.version.cuda, "cuDNN", torch.backends.cudnn.version())
print("TF32 in cuDNN:", torch.backends.cudnn.allow_tf32, "in products:", torch.backends.cuda.matmul.allow_tf32)
for k in range(torch.cuda.device_count()):
    print(torch.cuda.get_device_properties(k))
P

section "Tests marked gpu" "all pass; a fixture turns TF32 off."
run 240 python -m pytest -q -m gpu

section "Parts of a training step" "bf16 NHWC is the fastest format, and fp32 NHWC slower than fp32 NCHW; 25 channels take longer than 32, and
100 longer than 104. As products Φ and Φᵀ are faster than as convolutions. Eager, the host needs 15 to 25 ms a step and the device 8 to 15
at 64 x 64, 30 to 45 at 128 x 128; no line waits for the device; about 4,500 kernels."
run 240 python scripts/measure_gpu.py "$CONFIG" "${BASE[@]}" --device "$DEVICE"

section "Dry runs" "compiled at least 1.5 times as fast as eager; a first step of 1 to 3 minutes when compiled; no waiting for data."
for side in $SIDES; do
    for more in "${VARIANTS[@]}"; do
        say "$side x $side, $more"
        # shellcheck disable=SC2086
        timeout 300 python train.py "$CONFIG" "${BASE[@]}" data.crop_size="$side" $more --dry-run --device "$DEVICE" 2>&1 \
            | plain | grep -E "^(device|precision|first step|speed|waiting|peak|note)|Error" | sed 's/^/    /' | tee -a "$report"
    done
done

section "A signal" "exit status 143 within a second or two after the signal, and the state of the last step saved."
rm -rf "$OUT/signal"
python train.py "$CONFIG" "${BASE[@]}" --device "$DEVICE" --output "$OUT/signal" > "$OUT/signal.txt" 2>&1 &
job=$!
until [ -s "$OUT/signal/log.jsonl" ] || ! kill -0 $job 2> /dev/null; do sleep 1; done
sleep 5
since=$(date +%s.%N)
kill -TERM $job
wait $job
status=$?
say "exit status $status, $(python -c "print(round($(date +%s.%N) - $since, 1))") s after the signal; $(plain < "$OUT/signal.txt" | grep 'stopped by')"

section "Resuming in another memory format" "the same losses to 1e-2, whether the run was stopped and changed halfway or not."
SHORT=(training.minutes=0 training.steps_per_epoch=$STEPS training.schedule=constant training.log_every=$((STEPS / 2)) training.rate=1e-4)
rm -rf "$OUT/whole" "$OUT/parts"
train "${SHORT[@]}" training.epochs=2 training.channels_last=true --output "$OUT/whole" > "$OUT/whole.txt" 2>&1
train "${SHORT[@]}" training.epochs=1 training.channels_last=false --output "$OUT/parts" > "$OUT/parts.txt" 2>&1
train "${SHORT[@]}" training.epochs=2 training.channels_last=true --output "$OUT/parts" --resume >> "$OUT/parts.txt" 2>&1
for name in whole parts; do
    say "$name"
    losses "$OUT/$name" | sed 's/^/    /' | tee -a "$report"
done

section "Memory runs out" "a note that says in how many parts the batch is computed now, and no error."
rm -rf "$OUT/memory"
timeout 180 python train.py "$CONFIG" "${BASE[@]}" training.minutes=0 training.epochs=1 training.steps_per_epoch=2 training.log_every=1 \
    training.batch_size=$ENOUGH data.crop_size=128 --device "$DEVICE" --output "$OUT/memory" > "$OUT/memory.txt" 2>&1
say "exit status $?"
plain < "$OUT/memory.txt" | grep -E "out of memory|finished|Error" | sed 's/^/    /' | tee -a "$report"

section "Shipped weights" "the PSNR of the CPU to 0.01 dB; in bf16 0.01 dB less. fp32 with --fast is no slower than without."
run 60 python test.py lgm_net_tiny_r0.10 --data builtin --device cpu --output "$OUT/cpu"
for flags in "${FLAGS[@]}"; do
    say "flags: ${flags:-none}"
    # shellcheck disable=SC2086
    run 60 python test.py lgm_net_tiny_r0.10 --data builtin --device "$DEVICE" --output "$OUT/weights${flags// /}" $flags
done

if [ "$DEVICE" != cpu ] && [ "$(python -c 'import torch; print(torch.cuda.device_count())')" -gt 1 ]; then
    section "Two GPUs" "the losses of one to 1e-4, and no warning."
    for n in 1 2; do
        rm -rf "$OUT/ddp$n"
        torchrun --standalone --nproc-per-node $n train.py "$CONFIG" "${BASE[@]}" training.minutes=0 training.epochs=1 \
            training.steps_per_epoch=20 training.log_every=5 --output "$OUT/ddp$n" > "$OUT/ddp$n.txt" 2>&1
        say "$n: exit status $?"
        losses "$OUT/ddp$n" | sed 's/^/    /' | tee -a "$report"
        grep -iE "warn" "$OUT/ddp$n.txt" | sort -u | head -n 3 | sed 's/^/    /' | tee -a "$report"
    done
fi
say
say "The report is $report."
