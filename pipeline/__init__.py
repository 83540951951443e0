"""From raw media to a release: the stages and what they are made of.

Whoever imports this before TensorFlow is first used has it work as the stages are written for: operations side by side, each
on half of the cores. Left alone TensorFlow lets every operation have them all; a training step is some hundred small ones, two
of which are ready at a time, and their threads wait for each other: on two cores a step of 4,096 events took 14.1 ms, and 11.8
like this. An encoder, whose operations are few and large, answers two batches at a time instead (`towers.model_batches`).
"""

import os

cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(max(1, cores // 2)))
