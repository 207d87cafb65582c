"""Every fault of a study file is one line: where, what came, what is legal."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dastune.config import load_study
from dastune.errors import UserError

SAFE = "use 1 to 100 letters, digits, '-', '_' and '.', with a letter or digit first and no '.' last"
METHOD_NAMES = "legal: auto_augment, das, das_video, none, published, rand_augment, random, standard, trivial, uniform"
OWN_LABEL = "(a label of your own needs `method: NAME` in its options)"
AN_OP = "must be an op, such as rotate or rotate: {degrees: 20}"
A_CELL = "a cell such as {inputs: 2, nodes: 4}"
TOPOLOGIES = f"they are single, chain-1 to chain-6 and darts-1 to darts-6, or {A_CELL}"
DATA = "cifar10, cifar100, digits, folder, imagenet, svhn, tiny_imagenet"
DAS_KEYS = (
    "batch_norm, criterion, estimator, magnitude_ranges, method, preset, relaxation, search_share, selection, "
    "tau_learning_rate, tau_schedule, tau_weight_decay, topology, tuning_epochs, validation, validation_batch"
)
NO_GRADIENT = (
    "with estimator first_order, clean validation images give tau a gradient of exactly zero, since their loss at "
    "fixed weights does not depend on it; set it to augmented, or choose another estimator"
)
NO_STAGES = "makes a policy of stages, which a DAG has not; choose argmax or {}, or topology chain-K"
NO_STAGES_SAMPLED, NO_STAGES_BLENDED = (NO_STAGES.format(rule) for rule in ("perturbation_add", "perturbation"))
NOT_MASKED = "an op's weight can be masked in a blend only, and images can be given an op only where ops are sampled"

# A section that replaces the one of the minimal study -> the one line that is said of it.
ONE_FAULT = {
    # keys at every depth
    "modle: {}": "modle: unknown key; did you mean 'model'?",
    "zzz: 1": (
        "zzz: unknown key; legal: budget, data, final, hang_minutes, methods, model, name, resources, seeds, space, "
        "standard, tracking, training"
    ),
    "data: {name: digits, trian_images: 3}": "data.trian_images: unknown key; did you mean 'train_images'?",
    "data: {name: digits, root: /x}": (
        "data.root: is a key of cifar10, cifar100, svhn, tiny_imagenet, imagenet and folder, not of digits; legal: "
        "name, train_images, search_images, validation_images, removed_percent, shift"
    ),
    "data: {name: digits, train_images: 40, validation_images: 40, removed_percent: [0, 100]}": (
        "data.removed_percent[1]: must be at most 99, got 100"
    ),
    "data: {name: digits, train_images: 40, validation_images: 40, removed_percent: [0.5]}": (
        "data.removed_percent[0]: must be a whole number, got 0.5"
    ),
    "data: {name: digits, train_images: 40, validation_images: 40, removed_percent: []}": (
        "data.removed_percent: must not be empty, got []"
    ),
    "data: {name: digits, train_images: 40, validation_images: 40, removed_percent: [10, 10]}": (
        "data.removed_percent[1]: 10 is given twice; give each once"
    ),
    "data: {name: digits, train_images: 400, validation_images: 40, removed_percent: [0, 98]}": (
        "data.removed_percent[1]: 98 % leaves nothing of validation_images 40; remove less, or give more of them"
    ),
    "data: {name: digits, removed_percent: [0, 90]}\nspace: {noise: {levels: [0, 2]}}": (
        "space.noise.levels: must be one level where data.removed_percent has several: a study varies one of the two, "
        "got [0, 2]; give the other one value, or make two studies"
    ),
    "model: {name: wide_resnet, deph: 10}": "model.deph: unknown key; did you mean 'depth'?",
    "model: {depth: 10}": "model.depth: is a key of wide_resnet and resnet, not of small_cnn; legal: name, channels",
    "space: {opps: das-image}": "space.opps: unknown key; did you mean 'ops'?",
    "space: {noise: {level: [0]}}": "space.noise.level: unknown key; did you mean 'levels'?",
    "space: {ops: [{op: rotate, low: 0, high: 5, hihg: 3}]}": "space.ops[0].hihg: unknown key; did you mean 'high'?",
    "methods: {das: {topolgy: single}}": "methods.das.topolgy: unknown key; did you mean 'topology'?",
    "methods: {das: {nodes: 1}}": f"methods.das.nodes: unknown key; legal: {DAS_KEYS}",
    "methods: {das: {topology: {node: 1}}}": "methods.das.topology.node: unknown key; did you mean 'nodes'?",
    "methods: {das: {topology: {x: 1}}}": "methods.das.topology.x: unknown key; legal: cells, inputs, join, nodes",
    "methods: {x: {method: rand_augment, sub_policies: 1}}": (
        "methods.x.sub_policies: is a key of auto_augment and random, not of rand_augment; legal: method, "
        "children_in_parallel, halving, search, scale, n, m"
    ),
    "methods: {uniform: {ops: study}}": "methods.uniform.ops: is a key of trivial, not of uniform; legal: method",
    "methods: {das: {halving: {}}}": (
        "methods.das.halving: is a key of auto_augment, rand_augment and random, not of das; legal: method, preset, "
        "topology, relaxation, estimator, validation, validation_batch, selection, tau_learning_rate, "
        "tau_weight_decay, tau_schedule, magnitude_ranges, search_share, tuning_epochs, criterion, batch_norm"
    ),
    "methods: {random: {halving: {child: 4}}}": "methods.random.halving.child: unknown key; did you mean 'children'?",
    "budget: {gpu_hour: 1}": "budget.gpu_hour: unknown key; did you mean 'gpu_hours'?",
    "seeds: {searches: [1]}": "seeds.searches: unknown key; did you mean 'search'?",
    "training: {child_epoch: 1}": "training.child_epoch: unknown key; did you mean 'child_epochs'?",
    "final: {epoch: 1}": "final.epoch: unknown key; did you mean 'epochs'?",
    "tracking: {url: x}": "tracking.url: unknown key; did you mean 'uri'?",
    "3: 4": "the key 3 is no text; write it in quotes",
    "methods: {yes: {}}": "methods: the key true is no text; write it in quotes",
    "methods: {~: {}}": "methods: the key nothing is no text; write it in quotes",
    "space: {ops: [{3: 4}]}": "space.ops[0]: the key 3 is no text; write it in quotes",
    # sections of the wrong kind
    "data: digits": "data: must be a mapping such as {name: digits}, got 'digits'",
    "data: ": "data: must be a mapping such as {name: digits}, got nothing",
    "data: [digits]": "data: must be a mapping such as {name: digits}, got ['digits']",
    "model: small_cnn": "model: must be a mapping such as {name: small_cnn}, got 'small_cnn'",
    "budget: 24 cpu-hours": (
        "budget: must be a mapping with keys such as gpu_hours, cpu_hours, steps; got '24 cpu-hours'"
    ),
    "seeds: [1, 2]": "seeds: must be a mapping with keys such as search, final; got [1, 2]",
    "final: [1]": (
        "final: must be a mapping with keys such as batch_size, learning_rate, momentum, weight_decay, schedule, "
        "gradient_clip, precision, epochs; got [1]"
    ),
    "training: ": (
        "training: must be a mapping with keys such as batch_size, learning_rate, momentum, weight_decay, schedule, "
        "gradient_clip, precision, child_epochs; got nothing"
    ),
    "methods: [das, none]": "methods: must be a mapping such as {das: {}, none: {}}, got ['das', 'none']",
    "methods: das": "methods: must be a mapping such as {das: {}, none: {}}, got 'das'",
    "methods: {}": "methods: must not be empty, got {}",
    "methods: {das: [1]}": "methods.das: must be a mapping of options, got [1]",
    "methods: {das: paper}": "methods.das: must be a mapping of options, got 'paper'",
    # values of the wrong type
    "name: 3": "name: must be a text, got 3; write it in quotes",
    "name: 2024-01-01": "name: must be a text, got 2024-01-01; write it in quotes",
    "name: ": "name: must be a text, got nothing",
    "tracking: {uri: 3}": "tracking.uri: must be a text, got 3; write it in quotes",
    "standard: {flip: maybe}": "standard.flip: must be true or false, got 'maybe'",
    "standard: {flip: 1}": "standard.flip: must be true or false, got 1",
    "standard: {crop_px: 1.5}": "standard.crop_px: must be a whole number, got 1.5",
    "final: {epochs: abc}": "final.epochs: must be a whole number, got 'abc'",
    "final: {epochs: '10'}": "final.epochs: must be a whole number, got '10'",
    "final: {epochs: true}": "final.epochs: must be a whole number, got true",
    "final: {epochs: }": "final.epochs: must be a whole number, got nothing",
    "final: {learning_rate: high}": "final.learning_rate: must be a number, got 'high'",
    "seeds: {search: 1}": "seeds.search: must be a list, got 1",
    "space: {noise: {levels: 4}}": "space.noise.levels: must be a list, got 4",
    "methods: {rand_augment: {n: 3}}": "methods.rand_augment.n: must be a list, got 3",
    # values out of bounds
    "final: {epochs: 0}": "final.epochs: must be at least 1, got 0",
    "training: {batch_size: 0}": "training.batch_size: must be at least 1, got 0",
    "training: {momentum: 1.0}": "training.momentum: must be below 1, got 1.0",
    "space: {magnitude_levels: 1}": "space.magnitude_levels: must be at least 2, got 1",
    "methods: {das: {topology: {nodes: 9}}}": "methods.das.topology.nodes: must be at most 6, got 9",
    "methods: {das: {topology: {cells: a}}}": "methods.das.topology.cells: must be a whole number, got 'a'",
    "methods: {das: {magnitude_ranges: 11}}": "methods.das.magnitude_ranges: must be at most 10, got 11",
    "methods: {das: {validation_batch: 0}}": "methods.das.validation_batch: must be at least 1, got 0",
    "methods: {das: {search_share: 1}}": "methods.das.search_share: must be below 1, got 1",
    "methods: {das: {tau_learning_rate: 0}}": "methods.das.tau_learning_rate: must be above 0, got 0",
    "methods: {rand_augment: {n: [0]}}": "methods.rand_augment.n[0]: must be at least 1, got 0",
    "methods: {rand_augment: {m: [-1]}}": "methods.rand_augment.m[0]: must be at least 0, got -1",
    "methods: {rand_augment: {m: [true]}}": "methods.rand_augment.m[0]: must be a whole number, got true",
    "methods: {rand_augment: {m: []}}": "methods.rand_augment.m: must not be empty, got []",
    "methods: {rand_augment: {m: }}": "methods.rand_augment.m: must be a list, got nothing",
    "methods: {rand_augment: {m: [11]}}": (
        "methods.rand_augment.m[0]: must be at most 10, where ranges end on the scale paper, got 11"
    ),
    "methods: {rand_augment: {scale: torchvision, m: [30, 31]}}": (
        "methods.rand_augment.m[1]: must be at most 30, where ranges end on the scale torchvision, got 31"
    ),
    "methods: {rand_augment: {scale: torchvison, m: [25]}}": (
        "methods.rand_augment.scale: 'torchvison' is not legal; did you mean 'torchvision'?"
    ),
    "methods: {rand_augment: {scale: [1]}}": (
        "methods.rand_augment.scale: [1] is not legal; legal: paper, torchvision"
    ),
    "methods: {random: {halving: 3}}": (
        "methods.random.halving: must be a mapping with keys such as children, eta; got 3"
    ),
    "methods: {random: {halving: {children: 1}}}": "methods.random.halving.children: must be at least 2, got 1",
    "methods: {random: {halving: {children: 129}}}": "methods.random.halving.children: must be at most 128, got 129",
    "methods: {random: {halving: {eta: 1}}}": "methods.random.halving.eta: must be at least 2, got 1",
    "methods: {random: {halving: {children: 3, eta: 4}}}": (
        "methods.random.halving.children: 3 is less than eta, 4: no child would go on; raise it"
    ),
    "methods: {random: {halving: {eta: 16}}}": (
        "methods.random.halving.children: 8 is less than eta, 16: no child would go on; raise it"
    ),
    "methods: {random: {children_in_parallel: 0}}": "methods.random.children_in_parallel: must be at least 1, got 0",
    "methods: {random: {children_in_parallel: 65}}": "methods.random.children_in_parallel: must be at most 64, got 65",
    "methods: {random: {children_in_parallel: 9, halving: {}}}": (
        "methods.random.children_in_parallel: 9 is more than halving.children, 8, and no others begin before these "
        "have ended; lower it"
    ),
    "methods: {auto_augment: {controller_batch: 0}}": (
        "methods.auto_augment.controller_batch: must be at least 1, got 0"
    ),
    "methods: {auto_augment: {controller_batch: 3, children_in_parallel: 2}}": (
        "methods.auto_augment.controller_batch: must be a multiple of children_in_parallel, 2, got 3; a child is then "
        "proposed by the same controller whether children are trained at once or one by one"
    ),
    "methods: {auto_augment: {search: tpe, controller_batch: 2}}": (
        "methods.auto_augment.controller_batch: is of search ppo, got search tpe; leave it out"
    ),
    "methods: {das: {topology: {inputs: 3}}}": "methods.das.topology.inputs: 3 is not legal; legal: 1, 2",
    "resources: {cpus: 0}": "resources.cpus: must be above 0, got 0",
    "resources: {cpus: .inf}": "resources.cpus: must be a finite number, got inf",
    "seeds: {search: []}": "seeds.search: must not be empty, got []",
    "seeds: {search: [-1]}": "seeds.search[0]: must be at least 0, got -1",
    "seeds: {search: [3000000000]}": "seeds.search[0]: must be at most 2,147,483,647, got 3000000000",
    # unknown names
    "data: {name: cifar}": "data.name: 'cifar' is no data set; did you mean 'cifar10'?",
    "data: {name: mnist}": f"data.name: 'mnist' is no data set; legal: {DATA}",
    "data: {train_images: 100}": f"data.name: is required and not given; legal: {DATA}",
    "data: {name: 3}": f"data.name: 3 is no data set; legal: {DATA}",
    "model: {name: wide_resent}": "model.name: 'wide_resent' is no model; did you mean 'wide_resnet'?",
    "space: {ops: das-imgae}": "space.ops: 'das-imgae' is not the name of an op space; did you mean 'das-image'?",
    "space: {noise: {ops: defalt}}": (
        "space.noise.ops: 'defalt' is not the name of a list of noise ops; did you mean 'default'?"
    ),
    "space: {ops: [identity, rotat]}": "space.ops[1]: 'rotat' is no op; did you mean 'rotate'?",
    "space: {ops: [{op: rotat, low: 0, high: 1}]}": "space.ops[0].op: 'rotat' is no op; did you mean 'rotate'?",
    "space: {noise: {ops: [rotate]}}": "space.noise.ops[0]: 'rotate' is no noise op; did you mean 'constant'?",
    "methods: {randaug: {}}": f"methods.randaug: 'randaug' is no method; did you mean 'rand_augment'? {OWN_LABEL}",
    "methods: {DAS: {}}": f"methods.DAS: 'DAS' is no method; did you mean 'das'? {OWN_LABEL}",
    "methods: {x: {method: randaug}}": "methods.x.method: 'randaug' is no method; did you mean 'rand_augment'?",
    "methods: {x: {method: 7}}": f"methods.x.method: 7 is no method; {METHOD_NAMES}",
    "methods: {x: {method: }}": f"methods.x.method: is required and not given; {METHOD_NAMES}",
    "methods: {das: {preset: papr}}": "methods.das.preset: 'papr' is not legal; did you mean 'paper'?",
    "methods: {das: {preset: 3}}": "methods.das.preset: 3 is not legal; legal: default, paper",
    "methods: {das: {preset: [1]}}": "methods.das.preset: [1] is not legal; legal: default, paper",
    "methods: {das: {estimator: firstorder}}": (
        "methods.das.estimator: 'firstorder' is not legal; did you mean 'first_order'?"
    ),
    "methods: {das: {relaxation: }}": "methods.das.relaxation: nothing is not legal; legal: blend, sample",
    "methods: {das: {topology: {join: summ}}}": ("methods.das.topology.join: 'summ' is not legal; did you mean 'sum'?"),
    # topologies of das, and options that do not go together
    "methods: {das: {topology: chian-2}}": f"methods.das.topology: 'chian-2' is no topology; {TOPOLOGIES}",
    "methods: {das: {topology: darts-7}}": f"methods.das.topology: 'darts-7' is no topology; {TOPOLOGIES}",
    "methods: {das: {topology: 3}}": f"methods.das.topology: must be a name such as chain-2 or {A_CELL}, got 3",
    "methods: {das: {topology: }}": f"methods.das.topology: must be a name such as chain-2 or {A_CELL}, got nothing",
    **{
        f"methods: {{das: {{stages: {value}}}}}": (
            f"methods.das.stages: must be a whole number from 1 to 6, the ops one after the other, got {said}"
        )
        for value, said in (("9", "9"), ("0", "0"), ("1.5", "1.5"), ("true", "true"), ("x", "'x'"), ("", "nothing"))
    },
    "methods: {das: {stages: 2, topology: chain-3}}": (
        "methods.das.stages: says the same as topology: chain-K; give one of them"
    ),
    "methods: {das: {stages: 2, topology: {nodes: 2}}}": (
        "methods.das.stages: says the same as topology: chain-K; give one of them"
    ),
    "methods: {das: {estimator: first_order}}": f"methods.das.validation: {NO_GRADIENT}",
    "methods: {das: {preset: paper, validation: clean}}": f"methods.das.validation: {NO_GRADIENT}",
    "methods: {das: {topology: darts-4}}": f"methods.das.selection: distribution {NO_STAGES_SAMPLED}",
    "methods: {das: {topology: {nodes: 2}}}": f"methods.das.selection: distribution {NO_STAGES_SAMPLED}",
    "methods: {das: {preset: paper, selection: uniform}}": f"methods.das.selection: uniform {NO_STAGES_BLENDED}",
    "methods: {das: {selection: perturbation}}": (
        f"methods.das.selection: perturbation needs relaxation blend, got sample: {NOT_MASKED}"
    ),
    "methods: {das: {relaxation: blend, selection: perturbation_add}}": (
        f"methods.das.selection: perturbation_add needs relaxation sample, got blend: {NOT_MASKED}"
    ),
    "methods: {auto_augment: {search: grid}}": (
        "methods.auto_augment.search: 'grid' is not legal; legal: ppo, random, tpe"
    ),
    "methods: {trivial: {ops: trivial_wide}}": (
        "methods.trivial.ops: 'trivial_wide' is not legal; did you mean 'trivial-wide'?"
    ),
    "methods: {published: {}}": "methods.published.policy: is required and not given",
    "methods: {published: {policy: 3}}": "methods.published.policy: must be a text, got 3; write it in quotes",
    "methods: {x: {method: published, policy: aa-cifar}}": (
        "methods.x.policy: 'aa-cifar' is no published policy; did you mean 'aa-cifar10'?"
    ),
    "training: {schedule: cosin}": "training.schedule: 'cosin' is not legal; did you mean 'cosine'?",
    "training: {gradient_clip: 0}": "training.gradient_clip: must be above 0, got 0",
    "final: {precision: bf16}": "final.precision: 'bf16' is not legal; did you mean 'bfloat16'?",
    # ops and their arguments
    "space: {ops: [{rotate: {degres: 3}}]}": (
        "space.ops[0].rotate.degres: unknown argument; rotate takes {degrees: HIGH} or {degrees: [LOW, HIGH]}"
    ),
    "space: {ops: [{rotate: 20}]}": ("space.ops[0].rotate: must be {degrees: HIGH} or {degrees: [LOW, HIGH]}, got 20"),
    "space: {ops: [{rotate: {degrees: a}}]}": ("space.ops[0].rotate.degrees: must be a number or [LOW, HIGH], got 'a'"),
    "space: {ops: [{rotate: {degrees: [1, 2, 3]}}]}": (
        "space.ops[0].rotate.degrees: must be a number or [LOW, HIGH], got [1, 2, 3]"
    ),
    "space: {ops: [{rotate: {degrees: -20}}]}": (
        "space.ops[0].rotate.degrees: must be at least 0 degrees, got -20; its sign is drawn for each image"
    ),
    "space: {ops: [{posterize: {bits: 9}}]}": "space.ops[0].posterize.bits: must be at most 8 bits of 8, got 9",
    "space: {ops: [{op: cutout, low: 0, high: 1.5}]}": (
        "space.ops[0].high: must be at most 1 of the shorter side, got 1.5"
    ),
    "space: {ops: [{invert: {degrees: 3}}]}": "space.ops[0].invert: takes no argument, got {degrees: 3}",
    "space: {ops: [{rotate: , invert: }]}": f"space.ops[0]: {AN_OP}, got {{rotate: null, invert: null}}",
    "space: {ops: [3]}": f"space.ops[0]: {AN_OP}, got 3",
    "space: {ops: [{op: rotate, low: 0}]}": "space.ops[0].high: is required and not given",
    "space: {ops: []}": "space.ops: must not be empty, got []",
    "space: {ops: [{op: invert, low: 0, high: 0, signed: true}]}": (
        "space.ops[0].signed: the argument of invert has no sign"
    ),
    "space: {ops: [{op: color, low: -0.9, high: 0.9}]}": (
        "space.ops[0].low: must be at least 0 factor less 1, got -0.9; its sign is drawn for each image"
    ),
    "space: {geometry: nearest}": (
        "space.geometry: must be a mapping with keys such as interpolation, shear_about, whole_pixels, fill, sampling; "
        "got 'nearest'"
    ),
    "space: {geometry: {interpolation: cubic}}": (
        "space.geometry.interpolation: 'cubic' is not legal; legal: bilinear, nearest"
    ),
    "space: {geometry: {fill: [1, 2, 0]}}": "space.geometry.fill[1]: must be at most 1, got 2",
    "space: {geometry: {fill: [0, 1]}}": (
        "space.geometry.fill: must be one value or three: red, green, blue, got [0, 1]"
    ),
    "space: {ops: {identity: }}": (
        "space.ops: must be a list of ops, or the name of an op space (das-image, das-image-contrast, "
        "das-video, das-video-shear, aa, aa-torchvision, aa-paper, ra, ra-torchvision, ra-paper, trivial-wide), got "
        "{identity: null}"
    ),
    # shifts
    "data: {name: digits, shift: [{rotate: {degrees: 400, probability: 2}}]}": (
        "data.shift[0].rotate.probability: must be a number from 0 to 1, got 2"
    ),
    "data: {name: digits, shift: [{invert: {probability: half}}]}": (
        "data.shift[0].invert.probability: must be a number from 0 to 1, got 'half'"
    ),
    "data: {name: digits, shift: [rotate, {rotate: {degrees: -1, probability: 1}}]}": (
        "data.shift[1].rotate.degrees: must be at least 0 degrees, got -1; its sign is drawn for each image"
    ),
    "data: {name: digits, shift: [rotat]}": "data.shift[0]: 'rotat' is no op; did you mean 'rotate'?",
    "data: {name: digits, shift: [{rotat: {probability: 1}}]}": (
        "data.shift[0]: 'rotat' is no op; did you mean 'rotate'?"
    ),
    "data: {name: digits, shift: [invert, constant]}": (
        "data.shift[1]: 'constant' is a noise op, which leaves nothing to learn; give another op"
    ),
    "data: {name: digits, shift: [{op: rotate, low: 0, high: 40, probability: -1}]}": (
        "data.shift[0].probability: must be at least 0, got -1"
    ),
    "data: {name: digits, shift: [{op: rotate, low: 0, high: 40, chance: 1}]}": (
        "data.shift[0].chance: unknown key; legal: high, low, op, probability, signed"
    ),
    "data: {name: digits, shift: [3]}": f"data.shift[0]: {AN_OP}, got 3",
    "data: {name: digits, shift: rotate}": "data.shift: must be a list, got 'rotate'",
    "data: {name: digits, shift: }": "data.shift: must be a list, got nothing",
    # given twice, or beyond a list
    "space: {ops: [rotate, identity, rotate]}": "space.ops[2]: 'rotate' is given twice; give each once",
    "space: {ops: [identity, constant], noise: {levels: [3]}}": (
        "space.noise.ops[2]: 'constant' is in space.ops already; give each op once"
    ),
    "space: {noise: {levels: [0, 4, 0]}}": "space.noise.levels[2]: 0 is given twice; give each once",
    "space: {noise: {levels: [0, 99]}}": (
        "space.noise.levels[1]: level 99 is beyond the list of noise ops, which has 12"
    ),
    "space: {noise: {ops: [constant], levels: [2]}}": (
        "space.noise.levels[0]: level 2 is beyond the list of noise ops, which has 1"
    ),
    "seeds: {final: [2, 2]}": "seeds.final[1]: 2 is given twice; give each once",
    "methods: {rand_augment: {m: [4, 4]}}": "methods.rand_augment.m[1]: 4 is given twice; give each once",
    # names of files
    "name: ../x": f"name: '../x' is no safe folder name; {SAFE}",
    "name: a b": f"name: 'a b' is no safe folder name; {SAFE}",
    "name: a.": f"name: 'a.' is no safe folder name; {SAFE}",
    "methods: {a/b: {method: das}}": f"methods.a/b: 'a/b' is no safe folder name; {SAFE}",
    "methods: {DAS: {method: das}, das: {}}": (
        "methods.das: differs from the label 'DAS' in case only; their files would be the same"
    ),
    f"methods: {{{'x' * 61}: {{method: das}}}}": f"methods.{'x' * 61}: a label has at most 60 characters; this has 61",
    # budgets
    "budget: {}": "budget: give exactly one of gpu_hours, cpu_hours and steps; got none",
    "budget: {cpu_hours: 1, steps: 3}": (
        "budget: give exactly one of gpu_hours, cpu_hours and steps; got cpu_hours and steps"
    ),
    "budget: {cpu_hours: 0}": "budget.cpu_hours: must be above 0, got 0",
    "budget: {cpu_hours: .nan}": "budget.cpu_hours: must be a finite number, got nan",
    "budget: {steps: 1.5}": "budget.steps: must be a whole number, got 1.5",
    "budget: {gpu_hours: 24}": (
        "budget.gpu_hours: a GPU budget needs resources.gpus above 0, got 0; set resources.gpus, or give cpu_hours"
    ),
    "resources: {gpus: 0.5}": (
        "budget.cpu_hours: a CPU budget needs resources.gpus 0, got 0.5; give gpu_hours, or set resources.gpus to 0"
    ),
    "resources: {gpus: 2}": (
        "resources.gpus: must be 1 at most: a search trains on one GPU, and more GPUs run more searches, got 2"
    ),
    "resources: {gpus: -1}": "resources.gpus: must be at least 0, got -1",
    "resources: {devices: A100}": (
        "resources.devices: must be alike or mixed where resources.gpus is 0, got 'A100'; Ray names GPU models only"
    ),
    **{
        f"resources: {{devices: {devices!r}}}": (
            "resources.devices: must be alike, mixed, or one GPU model as Ray calls it, such as A100 or RTX-PRO-6000, "
            f"got {devices!r}"
        )
        for devices in ("", "Mixed", "accelerator_type:A100", "NVIDIA A100")
    },
    # networks and images that cannot be
    "model: {name: wide_resnet, depth: 11}": (
        "model.depth: must be 6 n + 4 with n at least 1 (10, 16, 22, 28, 34, 40 ...), got 11"
    ),
    "data: {name: digits, train_images: 900}": (
        "data.validation_images: 400 and train_images 900 together exceed the 1,000 training images; lower one"
    ),
    "data: {name: digits, search_images: 700}": (
        "data.validation_images: 400 and search_images 700 together exceed the 1,000 training images; lower one"
    ),
    "data: {name: digits, train_images: 1900, search_images: 10}": (
        "data.train_images: must be at most 1,000, the training images there are, got 1900"
    ),
    "data: {name: digits, train_images: }": (
        "data.validation_images: needs search_images beside it, or train_images for both"
    ),
    "data: {name: digits, train_images: -1}": "data.train_images: must be at least 1, got -1",
    "data: {name: svhn, train_images: 73258}": (
        "data.train_images: must be at most 73,257, the training images there are, got 73258"
    ),
    "data: {name: svhn, extra: true, search_images: 604388}": (
        "data.validation_images: 5,000 and search_images 604,388 together exceed the 604,388 training images; lower one"
    ),
    "data: {name: folder}": "data.root: is required and not given",
    "data: {name: folder, root: x, side: 7}": "data.side: must be at least 8, got 7",
    "data: {name: folder, root: x, side: large}": "data.side: must be a whole number, got 'large'",
    "data: {name: folder, root: x, search_images: }": (
        "data.validation_images: needs search_images beside it, or train_images for both"
    ),
    "data: {name: imagenet, side: 32}": (
        "data.side: is a key of folder, not of imagenet; legal: name, train_images, search_images, validation_images, "
        "removed_percent, shift, root, cache"
    ),
}


@pytest.mark.parametrize(("section", "line"), ONE_FAULT.items(), ids=ONE_FAULT)
def test_one_fault_is_one_line(section: str, line: str, minimal: str, refused: Callable[..., str]) -> None:
    replaced = yaml.safe_load(section).keys()
    kept = [line for line in minimal.splitlines() if line.partition(":")[0] not in replaced]
    assert refused("\n".join([*kept, section])) == f"study.yaml: 1 fault\n  {line}"


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://anna:pa55word@db:5432/mlflow",
        "postgresql+psycopg://anna:pa55/word@db/mlflow",
        "postgresql://db/mlflow?user=anna&password=pa55word",
        "mssql+pyodbc://?odbc_connect=Driver%3DX%3BPWD%3Dpa55word",
        "http://anna:pa55word@tracking:5000",
        "https://pa55word@tracking",
    ],
)
def test_a_password_is_refused_and_not_said(uri: str, minimal: str, refused: Callable[..., str]) -> None:
    message = refused(f"{minimal}\ntracking: {{uri: {uri!r}}}")
    assert message.startswith("study.yaml: 1 fault\n  tracking.uri: holds a password or a token")
    assert "MLFLOW_TRACKING_PASSWORD" in message
    for section in (f"tracking: {uri!r}", f"tracking: {{experiment: [{uri!r}]}}", f"{uri!r}: 1"):
        assert "pa55" not in refused(f"{minimal}\n{section}")


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:////data/a:b@c/mlflow.db",
        "http://tracking:5000/a@b",
        "http://tracking:5000",
        "https://[::1]:5000/",
        "postgresql://anna@db:5432/mlflow?sslmode=verify-full&passfile=/home/anna/.pgpass",
        "postgresql://db:5432/mlflow?options=a@b",
        "databricks://profile",
    ],
)
def test_a_uri_without_a_password_is_legal(uri: str, minimal: str, study_file: Callable[..., Any]) -> None:
    assert load_study(study_file(f"{minimal}\ntracking: {{uri: {uri!r}}}")).tracking.uri == uri


@pytest.mark.parametrize("section", ["name", "data", "methods", "budget"])
def test_required_sections(section: str, minimal: str, refused: Callable[..., str]) -> None:
    text = "\n".join(line for line in minimal.splitlines() if not line.startswith(section))
    assert refused(text) == f"study.yaml: 1 fault\n  {section}: is required and not given"


def test_all_faults_at_once_in_the_order_of_the_file(refused: Callable[..., str]) -> None:
    message = refused(
        """
        tracking: {url: x}
        budget: {gpu_hours: 24}
        name: a b
        seeds: {final: [1, 1], search: [x, -1]}
        data: {name: mnist}
        methods: {dsa: {}, das: {nodes: 1}, yes: {}}
        training: {batch_size: 0, schedule: cosin, lr: 1}
        zzz: 1
        """
    )
    assert [line.partition(": ")[0].strip() for line in message.splitlines()] == [
        "study.yaml",
        "tracking.url",
        "budget.gpu_hours",
        "name",
        "seeds.final[1]",
        "seeds.search[0]",
        "seeds.search[1]",
        "data.name",
        "methods.dsa",
        "methods.das.nodes",
        "methods",
        "training.batch_size",
        "training.schedule",
        "training.lr",
        "zzz",
    ]
    assert message.startswith("study.yaml: 14 faults\n")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "study.yaml: is empty; a study needs name, data, methods and budget"),
        ("# nothing\n", "study.yaml: is empty; a study needs name, data, methods and budget"),
        ("- a\n- b\n", "study.yaml: holds a list; must be a mapping with keys such as name, data, methods and budget"),
        ("hello", "study.yaml: holds a text; must be a mapping with keys such as name, data, methods and budget"),
        ("3", "study.yaml: holds the value 3; must be a mapping with keys such as name, data, methods and budget"),
        (bytes(range(256)), "study.yaml: is no text, so no YAML; give a study file"),
        (b"name: \x00", "study.yaml: is no text, so no YAML; give a study file"),
        ("name: [1, 2\nfoo: }", "study.yaml, line 2, column 4: is not valid YAML: expected ',' or ']', but got ':'"),
        ("name: x\n\tdata: y", "study.yaml, line 2, column 1: is not valid YAML: a tab; indent with spaces"),
        ("a: 1\n---\nb: 2", "study.yaml, line 2, column 1: a second document begins here; a study is one"),
        ("name: x\nname: y", "study.yaml, line 2, column 1: the key 'name' is given twice"),
        ("data: {name: x, name: y}", "study.yaml, line 1, column 17: the key 'name' is given twice"),
        ("{[1]: 2}", "study.yaml, line 1, column 2: is not valid YAML: found unhashable key"),
        ("a: *b", "study.yaml, line 1, column 4: is not valid YAML: found undefined alias 'b'"),
        ("a: &a [*a]", "study.yaml: an alias (*name) stands inside of what it refers to; write the value out"),
        ("a: 2024-13-01", "study.yaml: is not valid YAML: month must be in 1..12"),
        ("[" * 1500, "study.yaml: is nested too deeply for a study"),
        (
            "a: !!python/object:os.system x",
            "study.yaml, line 1, column 4: tags such as !!python are not allowed; write plain values",
        ),
    ],
)
def test_a_file_that_is_no_study(content: str | bytes, line: str, refused: Callable[..., str]) -> None:
    assert refused(content) == line


JARGON = re.compile(r"Input should|valid dict|pydantic|literal|function-|\[type=|NoneType|None|True|False|\bstr\b")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "das", "digits", "paper", "-1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "ops", "op", "nodes", "degrees", "method", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)
PATHS = [
    *("name", "data", "data.name", "data.train_images", "model", "model.name", "model.depth", "space", "space.ops"),
    *("space.noise", "space.noise.ops", "space.noise.levels", "methods", "methods.das", "methods.das.preset"),
    *("methods.x", "methods.x.method", "budget", "budget.gpu_hours", "resources", "resources.gpus", "seeds.search"),
    *("standard", "training", "training.schedule", "final", "final.epochs", "tracking.uri", "x", "data.shift"),
    *("methods.das.topology", "methods.das.stages", "methods.das.selection", "methods.das.topology.join"),
    *("methods.rand_augment.m", "methods.rand_augment.scale", "methods.published.policy", "methods.random.halving"),
    *("methods.random.halving.children", "methods.random.halving.eta", "methods.random.children_in_parallel"),
    *("methods.auto_augment.controller_batch", "methods.auto_augment.search"),
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(PATHS), VALUES, min_size=1, max_size=3))
def test_whatever_comes_is_refused_in_plain_words(
    minimal: str, study_file: Callable[..., Any], changes: dict[str, Any]
) -> None:
    study: dict[str, Any] = yaml.safe_load(minimal)
    for path, value in changes.items():
        section = study
        *parents, last = path.split(".")
        for parent in parents:
            if not isinstance(section.get(parent), dict):
                section[parent] = {}
            section = section[parent]
        section[last] = value
    path = study_file(yaml.safe_dump(study, sort_keys=False))
    message = refusal(path)
    assert message is None or len(message.splitlines()) >= 2
    assert not JARGON.search(message or "")


def refusal(path: Path) -> str | None:
    """Return what is said of a study, None if it loads."""
    try:
        load_study(path)
    except UserError as error:
        return str(error)
    return None
