"""What a recipe costs before it runs: parameters, FLOPs, memory, disk, time on a GPU.

A recipe says what its parts are (`stage.RecipePlan`, made by its ``plan.py``); everything is
counted here. Nothing is computed and no weights are loaded: one training step of the recipe's own
task is taken on tensors without memory (`fake.without_memory`), and what passes is counted.
"""
