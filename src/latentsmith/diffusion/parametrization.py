"""What a network's output means, and how one meaning follows from another.

z_t = α x + σ ε                       x: data, ε: standard normal noise
noise     ε
data      x
v         α ε − σ x                   (Salimans & Ho 2022, eq. 11)
velocity  α' x + σ' ε = dz/dt         (flow matching; t = 0 data, t = 1 noise)
score     −ε / σ                      (gradient of log p_t(z))
"""

from typing import Literal

Parametrization = Literal["noise", "data", "v", "velocity", "score"]
