"""The commented study file that `fedmodels study new` writes."""

import json

_INPUT = {
    "cnn": """\
modality = "image"
height = {size}               # pixels; other sizes are resized
width = {size}
channels = {channels}               # 1 = grey, 3 = colour
low = 0                   # public pixel range, scaled to [-1, 1]
high = 255
""",
    "series": """\
modality = "series"
steps = 48                # intervals of the grid
step_minutes = 60
# Every variable with its public plausible range: never the data's own mean and deviation.
variables = [
    {{ name = "HR", low = 20, high = 220, unit = "bpm" }},
    {{ name = "Temp", low = 30, high = 43, unit = "C" }},      # data in another unit are converted by the binding
]
statics = [{{ name = "Age", low = 15, high = 100 }}]
""",
    "text": """\
modality = "text"
vocabulary = 8192         # public hash buckets: no vocabulary is ever made from patients' text
max_tokens = 128
keep = "head"             # of a longer text the first tokens; tail: the last; both: as many from either end
mask_identifiers = true   # names, numbers and dates of birth in known forms; no anonymisation
""",
    "mlp": """\
modality = "table"
columns = [
    {{ name = "age", low = 0, high = 110 }},                            # a number and its public range
    {{ name = "sex", kind = "category", values = ["f", "m"] }},         # a category and its public values
]
""",
}

_TEXT = """\
# A fedmodels study: the one file that every hospital reads, approves and pins. Nothing in it depends on private data.

[study]
name = {name}
task = {task}
labels = {labels}        # in the order of the model's outputs; of two, the second is the positive one
# For the model card: what is predicted from what, by whom and for whom to be used, what not for.
description = ""
intended_use = ""
limits = ""

[model]
name = {model}
# sizes = {{ ... }}          # what differs from the defaults; a preset such as article-cnn has none

[input]
{input}
[training]
rounds = {rounds}{pad}               # aggregations
local_steps = {steps}           # steps at each hospital between two aggregations; 1 in mode distributed
batch_rate = {rate}          # probability of each patient to be in a step's batch
optimiser = "sgd"         # sgd or adam
learning_rate = {learning_rate}
momentum = {momentum}
weight_decay = 0.0
gradient_norm = 1.0       # clip of a batch's gradient without privacy (exploding gradients); 0 = none
server_optimiser = "fedavg"     # fedavg, fedavgm, fedadam or fedyogi
server_learning_rate = 1.0
average = {momentum}             # decay of a moving average of the models over rounds, say 0.9; 0 = none
# Unbalanced classes, from public priors; empty or 0 = nothing of the kind.
class_weights = []        # of each label in the loss
class_rates = []          # share of batch_rate for patients of each label, one of them 1
focal_gamma = 0.0         # focal loss: say 2
records = 1               # of a patient in a step, their gradients averaged; each costs a pass
# Images only.
augment = []              # random changes: "flip" (left and right), "shift", "brightness"
augmentations = 1         # copies of a record in a step, changed differently; each costs a pass
# Hospitals that differ. Neither goes with mode distributed.
proximal = 0.0            # FedProx's mu, for several local steps
personal = "none"         # norm or head: layers that never leave a hospital
seed = 0

[privacy]
# distributed: the hospitals' noise adds up to what pooled private training needs, one step per round;
# local: each hospital adds all of it, and trusts nobody; none: a baseline without any promise.
mode = {mode}
epsilon = {epsilon}             # for the whole training, allowed retries included
delta = 1e-5              # well below 1 / patients of a hospital
unit = "patient"
adjacency = "add-remove"
clip = 1.0                # bound on one patient's gradient
max_colluding = 1         # hospitals that may pool what they know with the coordinator
evaluation_epsilon = 1.0  # for the published evaluation counts

[federation]
hospitals = {hospitals}
min_contributors = {least}      # fewest hospitals in any sum that opens
on_dropout = "retry"      # a round that misses a hospital is run again; recover: it opens without it
max_retries = 2           # aborted rounds in the whole study; each is charged
timeout_seconds = 600
update_bound = 4.0        # largest change of one parameter in one round

[evaluation]
operating_point = "half"  # of two labels: predict the second from 0.5 on; youden or specificity: chosen on test counts
specificity = 0.9         # the one at which sensitivity is told
"""


def render(name: str, model: str, family: str, labels: list[str], mode: str, hospitals: int, epsilon: float) -> str:
    """The file's text; `parse_study` decides whether the answers make a valid study."""
    kind = "text" if family.startswith("text-") else "series" if family in ("lstm", "gru") else family
    article = model == "article-cnn"
    return _TEXT.format(
        name=json.dumps(name),
        task=json.dumps("binary" if len(labels) == 2 else "multiclass"),
        labels=json.dumps(labels, ensure_ascii=False),
        model=json.dumps(model),
        input=_INPUT[kind].format(size=224 if article else 64, channels=3 if article else 1),
        mode=json.dumps(mode),
        steps=1 if mode == "distributed" else 5,
        rounds=100 if mode == "distributed" else 30,
        pad="" if mode == "distributed" else " ",
        rate=0.2 if mode == "distributed" else 0.1,
        learning_rate=0.5 if mode == "distributed" else 0.1,
        momentum=0.9 if mode == "distributed" else 0.0,
        epsilon=float(epsilon),
        hospitals=hospitals,
        least=min(3, hospitals),
    )
