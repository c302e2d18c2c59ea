#!/usr/bin/env bash
# Speed and accuracy on a machine with a GPU, in pieces: each call works for at most LIMIT seconds on the jobs
# that are not done yet, in the order below, and lists those that are left. Call it until none is left.
#
#   benchmarks/gpu.sh
#
# PHOTOS, CIFAR10, IMAGENETTE   data: a folder of photographs, and sets with train/ and test/ or val/;
#                               a missing one is skipped
# RESULTS                       folder of tables and curves (docs/results)
# RUNS                          folder of the runs (runs/gpu); keep it between calls
# PYTHON, LIMIT                 .venv/bin/python; 570 seconds
# WORKERS, THEIRS               workers of ours (8) and of the published loop (16)
# CASES, SPEED, SHORT, LONG     cases of step.py; options of end_to_end.py; options of every training of the
#                               200-epoch and 800-epoch kind: tiny ones try the script on a CPU
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-.venv/bin/python}
PHOTOS=${PHOTOS:-data/photos}
CIFAR10=${CIFAR10:-data/cifar10}
IMAGENETTE=${IMAGENETTE:-data/imagenette-128}
RESULTS=${RESULTS:-docs/results}
RUNS=${RUNS:-runs/gpu}
LIMIT=${LIMIT:-570}
WORKERS=${WORKERS:-8}
THEIRS=${THEIRS:-16}
CASES=${CASES:-resnet50:224:256 resnet50:224:128 resnet18:224:256 resnet18:32:512 resnet18:128:256}
SPEED=${SPEED:---backbone resnet50 --batch-size 256 --images 20000 --warm-up 32 --steps 64 --rounds 2}
SHORT=${SHORT:---epochs 200}
LONG=${LONG:---epochs 800}

mkdir -p "$RUNS" "$RESULTS"
left=()

# job NAME FILE COMMAND...: redirects COMMAND's output to FILE, which marks the job as done
job() {
    local name=$1 file=$2 rest=$((LIMIT - SECONDS))
    shift 2
    if [[ -s $file ]]; then return; fi
    if ((rest < 5 || ${#left[@]} > 0)); then
        left+=("$name")
        return
    fi
    echo "== $name (at most $rest s)" >&2
    local status=0
    timeout --signal=INT --kill-after=20 "$rest" "$@" >"$file.part" || status=$?
    case $status in
        0) mv "$file.part" "$file" ;;
        75 | 124 | 130 | 137) left+=("$name") ;;
        *) echo "== $name failed with status $status" >&2 && exit "$status" ;;
    esac
}

# training NAME DATA OPTIONS...: resumes where the last call was stopped
training() {
    local name=$1 data=$2
    shift 2
    [[ -d $data ]] || return 0
    job "$name" "$RUNS/$name.json" "$PYTHON" -m siam pretrain "$data" --out "$RUNS/$name" --resume auto --json \
        --checkpoint.every 1m "$@"
    if [[ -s $RUNS/$name.json ]]; then
        job "$name, linear" "$RUNS/$name-linear.json" \
            "$PYTHON" -m siam evaluate "$RUNS/$name" "$data" --protocol linear --json
        job "$name, knn" "$RUNS/$name-knn.json" \
            "$PYTHON" -m siam evaluate "$RUNS/$name" "$data" --protocol knn --json
    fi
}

# shellcheck disable=SC2086  # CASES, SPEED, SHORT and LONG are lists of words
{
    if [[ -d $PHOTOS ]]; then
        job "step" "$RESULTS/gpu-step.txt" \
            "$PYTHON" benchmarks/step.py --cases $CASES --steps 10 --out "$RESULTS/gpu-step.json"
        job "files to step" "$RESULTS/gpu-end-to-end.txt" \
            "$PYTHON" benchmarks/end_to_end.py "$PHOTOS" $SPEED --workers "$WORKERS" --their-workers "$THEIRS" \
            --out "$RESULTS/gpu-end-to-end.json"
    fi
    training cifar10-simsiam-200 "$CIFAR10" --recipe cifar10 $SHORT
    training cifar10-simsiam-800 "$CIFAR10" --recipe cifar10 $LONG
    for method in byol simclr moco_v2 swav; do
        training "cifar10-$method-200" "$CIFAR10" --recipe cifar10 --method "$method" $SHORT
    done
    training imagenette-simsiam-800 "$IMAGENETTE" --recipe imagenette $LONG
}

"$PYTHON" benchmarks/runs.py "$RUNS" --out "$RESULTS/gpu-runs"
if ((${#left[@]})); then
    printf 'left: %s\n' "${left[@]}"
    exit 75 # to be continued
fi
echo "all done"
