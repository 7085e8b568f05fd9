"""The optimizers in float64 NumPy, written from the papers, independent of the library.

Each takes the gradients of all steps, first axis time, and gives the updates. `adamw` also needs the first parameters.
"""

import numpy as np


def gradient_descent(gradients, learning_rate):
    return np.array([-learning_rate * g for g in gradients])


def momentum(gradients, learning_rate, decay):
    v, updates = 0.0, []
    for g in gradients:
        v = decay * v + (1 - decay) * g
        updates.append(-learning_rate * v)
    return np.array(updates)


def heavy_ball(gradients, learning_rate, decay):
    v, updates = 0.0, []
    for g in gradients:
        v = decay * v + g
        updates.append(-learning_rate * v)
    return np.array(updates)


def rmsprop(gradients, learning_rate, decay, eps, eps_root=0.0):
    s, updates = 0.0, []
    for g in gradients:
        s = decay * s + (1 - decay) * np.abs(g) ** 2
        updates.append(-learning_rate * g / (np.sqrt(s + eps_root) + eps))
    return np.array(updates)


def adam(gradients, learning_rate, b1, b2, eps, eps_root=0.0):
    m, v, updates = 0.0, 0.0, []
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        updates.append(-learning_rate * m_hat / (np.sqrt(v_hat + eps_root) + eps))
    return np.array(updates)


def adamw(gradients, params, learning_rate, b1, b2, eps, eps_root, weight_decay):
    params, updates = np.array(params, dtype=gradients.dtype), []
    for step in adam(gradients, 1.0, b1, b2, eps, eps_root):
        updates.append(learning_rate * (step - weight_decay * params))
        params = params + updates[-1]
    return np.array(updates)
