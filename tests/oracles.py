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


def nesterov(gradients, learning_rate, decay):
    v, updates = 0.0, []
    for g in gradients:
        v = decay * v + g
        updates.append(-learning_rate * (g + decay * v))
    return np.array(updates)


def signum(gradients, learning_rate, decay):
    return learning_rate * np.sign(momentum(gradients, 1.0, decay))


def lion(gradients, params, learning_rate, b1, b2, weight_decay):
    m, params, updates = 0.0, np.array(params, dtype=gradients.dtype), []
    for g in gradients:
        c = b1 * m + (1 - b1) * g
        m = b2 * m + (1 - b2) * g
        updates.append(-learning_rate * (np.sign(c) + weight_decay * params))
        params = params + updates[-1]
    return np.array(updates)


def adadelta(gradients, learning_rate, decay, eps):
    s, e, updates = 0.0, 0.0, []
    for g in gradients:
        s = decay * s + (1 - decay) * np.abs(g) ** 2
        step = np.sqrt(e + eps) / np.sqrt(s + eps) * g
        e = decay * e + (1 - decay) * np.abs(step) ** 2
        updates.append(-learning_rate * step)
    return np.array(updates)


def laprop(gradients, learning_rate, b1, b2, eps):
    m, v, updates = 0.0, 0.0, []
    for t, g in enumerate(gradients, start=1):
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        m = b1 * m + (1 - b1) * g / (np.sqrt(v / (1 - b2**t)) + eps)
        updates.append(-learning_rate * m / (1 - b1**t))
    return np.array(updates)


def rmsprop_momentum(gradients, learning_rate, decay, momentum, eps, eps_root):
    v, updates = 0.0, []
    for step in rmsprop(gradients, 1.0, decay, eps, eps_root):
        v = momentum * v + step
        updates.append(learning_rate * v)
    return np.array(updates)


def rmsprop_centered(gradients, learning_rate, decay, momentum, eps, eps_root):
    m, s, v, updates = 0.0, 0.0, 0.0, []
    for g in gradients:
        m = decay * m + (1 - decay) * g
        s = decay * s + (1 - decay) * np.abs(g) ** 2
        v = momentum * v + g / (np.sqrt(s - np.abs(m) ** 2 + eps_root) + eps)
        updates.append(-learning_rate * v)
    return np.array(updates)


def adamax(gradients, learning_rate, b1, b2, eps):
    m, u, updates = 0.0, 0.0, []
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        u = np.maximum(b2 * u, np.abs(g))
        updates.append(-learning_rate / (1 - b1**t) * m / (u + eps))
    return np.array(updates)


def amsgrad(gradients, learning_rate, b1, b2, eps, eps_root=0.0):
    m, v, largest, updates = 0.0, 0.0, 0.0, []
    for g in gradients:
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        largest = np.maximum(largest, v)
        updates.append(-learning_rate * m / (np.sqrt(largest + eps_root) + eps))
    return np.array(updates)


def yogi(gradients, learning_rate, b1, b2, eps, eps_root=0.0):
    m, v, updates = 0.0, 0.0, []
    for g in gradients:
        square = np.abs(g) ** 2
        m = b1 * m + (1 - b1) * g
        v = v - (1 - b2) * np.sign(v - square) * square
        updates.append(-learning_rate * m / (np.sqrt(v + eps_root) + eps))
    return np.array(updates)


def radam(gradients, learning_rate, b1, b2, eps, eps_root, threshold):
    m, v, updates = 0.0, 0.0, []
    longest = 2 / (1 - b2) - 1
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        m_hat = m / (1 - b1**t)
        length = longest - 2 * t * b2**t / (1 - b2**t)
        if length > threshold:
            r = np.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
            updates.append(-learning_rate * r * m_hat / (np.sqrt(v / (1 - b2**t) + eps_root) + eps))
        else:
            updates.append(-learning_rate * m_hat)
    return np.array(updates)


def nadam(gradients, learning_rate, b1, b2, eps, eps_root=0.0):
    m, v, updates = 0.0, 0.0, []
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        m_bar = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        updates.append(-learning_rate * m_bar / (np.sqrt(v / (1 - b2**t) + eps_root) + eps))
    return np.array(updates)


def decoupled(steps, params, learning_rate, weight_decay):
    """What `steps`, an array, of a learning rate of 1, become with decoupled weight decay."""
    params, updates = np.array(params, dtype=steps.dtype), []
    for step in steps:
        updates.append(learning_rate * (step - weight_decay * params))
        params = params + updates[-1]
    return np.array(updates)


def nadamw(gradients, params, learning_rate, b1, b2, eps, eps_root, weight_decay):
    return decoupled(nadam(gradients, 1.0, b1, b2, eps, eps_root), params, learning_rate, weight_decay)


def adabelief(gradients, learning_rate, b1, b2, eps, eps_root):
    m, s, updates = 0.0, 0.0, []
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * np.abs(g - m) ** 2 + eps_root
        updates.append(-learning_rate * m / (1 - b1**t) / (np.sqrt(s / (1 - b2**t)) + eps))
    return np.array(updates)


def ademamix(gradients, params, learning_rate, b1, b2, b3, alpha, eps, eps_root, weight_decay, warmup=0):
    m, n, v, steps = 0.0, 0.0, 0.0, []
    for t, g in enumerate(gradients, start=1):
        share = min(t / warmup, 1.0) if warmup else 1.0
        slow = np.exp(np.log(b1) * np.log(b3) / ((1 - share) * np.log(b3) + share * np.log(b1)))
        m = b1 * m + (1 - b1) * g
        n = slow * n + (1 - slow) * g
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        steps.append(-(m / (1 - b1**t) + share * alpha * n) / (np.sqrt(v / (1 - b2**t) + eps_root) + eps))
    return decoupled(np.array(steps), params, learning_rate, weight_decay)


def adan(gradients, params, learning_rate, b1, b2, b3, eps, eps_root, weight_decay):
    """With the paper's betas, which are 1 minus these."""
    beta1, beta2, beta3 = 1 - b1, 1 - b2, 1 - b3
    m, v, n, last = 0.0, 0.0, 0.0, gradients[0]
    params, updates = np.array(params, dtype=gradients.dtype), []
    for t, g in enumerate(gradients, start=1):
        m = (1 - beta1) * m + beta1 * g
        v = (1 - beta2) * v + beta2 * (g - last)
        n = (1 - beta3) * n + beta3 * np.abs(g + (1 - beta2) * (g - last)) ** 2
        last = g
        rate = learning_rate / (np.sqrt(n / (1 - b3**t) + eps_root) + eps)
        step = rate * (m / (1 - b1**t) + (1 - beta2) * v / (1 - b2**t))
        # (params - step) / (1 + decay) - params, without the rounding of that difference.
        decay = weight_decay * learning_rate
        updates.append(-(step + decay * params) / (1 + decay))
        params = params + updates[-1]
    return np.array(updates)


def lars(gradients, params, learning_rate, weight_decay, trust_coefficient, momentum):
    v, params, updates = 0.0, np.array(params, dtype=gradients.dtype), []
    for g in gradients:
        size = np.sqrt(np.sum(np.abs(params) ** 2))
        local = trust_coefficient * size / (np.sqrt(np.sum(np.abs(g) ** 2)) + weight_decay * size)
        v = momentum * v + learning_rate * local * (g + weight_decay * params)
        updates.append(-v)
        params = params - v
    return np.array(updates)


def novograd(gradients, params, learning_rate, b1, b2, eps, eps_root, weight_decay):
    m, v, params, updates = 0.0, None, np.array(params, dtype=gradients.dtype), []
    for g in gradients:
        square = np.sum(np.abs(g) ** 2)
        v = square if v is None else b2 * v + (1 - b2) * square
        m = b1 * m + (g / (np.sqrt(v + eps_root) + eps) + weight_decay * params)
        updates.append(-learning_rate * m)
        params = params + updates[-1]
    return np.array(updates)


def lamb(gradients, params, learning_rate, b1, b2, eps, eps_root, weight_decay):
    params, updates = np.array(params, dtype=gradients.dtype), []
    for step in adam(gradients, 1.0, b1, b2, eps, eps_root):
        r = step - weight_decay * params
        updates.append(learning_rate * np.sqrt(np.sum(np.abs(params) ** 2) / np.sum(np.abs(r) ** 2)) * r)
        params = params + updates[-1]
    return np.array(updates)


def adafactor(gradients, params, learning_rate, decay_rate, clipping_threshold, eps_root, min_scale):
    rows = columns = v = 0.0
    params, updates = np.array(params, dtype=gradients.dtype), []
    for t, g in enumerate(gradients, start=1):
        beta, square = 1 - float(t) ** -decay_rate, np.abs(g) ** 2 + eps_root
        if g.ndim == 2:
            rows = beta * rows + (1 - beta) * square.sum(1, keepdims=True)
            columns = beta * columns + (1 - beta) * square.sum(0, keepdims=True)
            v = rows @ columns / rows.sum()
        else:
            v = beta * v + (1 - beta) * square
        u = g / np.sqrt(v)
        u = u / max(1.0, np.sqrt(np.mean(np.abs(u) ** 2)) / clipping_threshold)
        updates.append(-learning_rate * max(min_scale, np.sqrt(np.mean(np.abs(params) ** 2))) * u)
        params = params + updates[-1]
    return np.array(updates)


# Those of `own`.


def clipped(x, limit):
    return x * np.minimum(1, limit / np.maximum(np.abs(x), 1e-300))


def adopt(gradients, learning_rate, b1, b2, eps):
    m, v, updates = 0.0, np.abs(gradients[0]) ** 2, [0 * gradients[0]]
    for t, g in enumerate(gradients[1:], start=1):
        m = b1 * m + (1 - b1) * clipped(g / np.maximum(np.sqrt(v), eps), t**0.25)
        v = b2 * v + (1 - b2) * np.abs(g) ** 2
        updates.append(-learning_rate * m)
    return np.array(updates)


def cautious_adamw(gradients, params, learning_rate, b1, b2, eps, weight_decay):
    steps = []
    for g, u in zip(gradients, -adam(gradients, 1.0, b1, b2, eps), strict=True):
        mask = (u * np.conj(g)).real > 0
        steps.append(-u * mask / max(mask.mean(), 1e-3))
    return decoupled(np.array(steps), params, learning_rate, weight_decay)


def adam_of_rows(gradients, learning_rate, b1, b2, eps):
    m, v, updates = 0.0, 0.0, []
    for t, g in enumerate(gradients, start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * (np.abs(g) ** 2).mean(-1, keepdims=True)
        updates.append(-learning_rate * m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps))
    return np.array(updates)


def grokfast(gradients, learning_rate, decay, weight, b1, b2, eps):
    slow, amplified = 0.0, []
    for g in gradients:
        slow = decay * slow + (1 - decay) * g
        amplified.append(g + weight * slow)
    return adam(np.array(amplified), learning_rate, b1, b2, eps)


def momentum_of_clipped(gradients, learning_rate, decay):
    limits = np.arange(1, len(gradients) + 1) ** 0.25
    limited = [clipped(g, limit) for g, limit in zip(gradients, limits, strict=True)]
    return momentum(np.array(limited), learning_rate, decay)


def orthogonal(matrix, coefficients=((3.4445, -4.7750, 2.0315),) * 5, eps=1e-7):
    """By the iteration of Newton and Schulz, as Jordan's code has it; a vector is a matrix of one row."""
    x = np.atleast_2d(matrix)
    x = x / (np.linalg.norm(x) + eps)
    for a, b, c in coefficients:
        gram = x @ x.conj().T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.reshape(np.shape(matrix))


def looked_ahead(gradients, decay):
    """Nesterov's momentum, as an average: what Muon makes orthogonal."""
    m = 0.0
    for g in gradients:
        m = decay * m + (1 - decay) * g
        yield (1 - decay) * g + decay * m


def muon(gradients, params, learning_rate, decay, weight_decay):
    params, updates = np.array(params, dtype=gradients.dtype), []
    size = 0.2 * np.sqrt(max(np.atleast_2d(params).shape))
    for u in looked_ahead(gradients, decay):
        updates.append(-learning_rate * (size * orthogonal(u) + weight_decay * params))
        params = params + updates[-1]
    return np.array(updates)


def normuon(gradients, params, learning_rate, decay, b2, eps, weight_decay):
    v, params, updates = 0.0, np.array(params, dtype=gradients.dtype), []
    size = 0.2 * np.sqrt(max(np.atleast_2d(params).shape))
    for u in looked_ahead(gradients, decay):
        o = np.atleast_2d(orthogonal(u))
        v = b2 * v + (1 - b2) * np.mean(np.abs(o) ** 2, axis=0)  # Of all inputs: (in, out).
        even = o / (np.sqrt(v) + eps)
        even = (even * np.linalg.norm(o) / np.linalg.norm(even)).reshape(params.shape)
        updates.append(-learning_rate * (size * even + weight_decay * params))
        params = params + updates[-1]
    return np.array(updates)


def muon_hyperball(gradients, params, learning_rate, decay):
    params, updates = np.array(params, dtype=gradients.dtype), []
    for u in looked_ahead(gradients, decay):
        o, radius = orthogonal(u), np.linalg.norm(params)
        moved = params - learning_rate * radius * o / np.linalg.norm(o)
        updates.append(radius * moved / np.linalg.norm(moved) - params)
        params = params + updates[-1]
    return np.array(updates)


def soap(gradients, params, learning_rate, b1, b2, shampoo_decay, eps, weight_decay, every=10, max_size=10_000):
    """In the order of the paper's code: the first moment turned with the basis, the second permuted with its columns.

    Corrected before eps is added, and with AdamW's decay, which is in the first step, too.
    """
    params, updates = np.array(params, dtype=gradients.dtype), []
    sides = [side for side in (0, 1) if 1 < params.shape[side] <= max_size]
    bases, grams = [np.eye(n) for n in params.shape], [0.0, 0.0]
    m = v = 0.0

    def into(x):
        return bases[0].conj().T @ x @ bases[1]

    def out_of(x):
        return bases[0] @ x @ bases[1].conj().T

    for s, g in enumerate(gradients):
        step = 0 * g
        if s > 0:
            m = b1 * m + (1 - b1) * into(g)
            v = b2 * v + (1 - b2) * np.abs(into(g)) ** 2
            step = out_of(m / (1 - b1**s) / (np.sqrt(v / (1 - b2**s)) + eps))
        updates.append(-learning_rate * (step + weight_decay * params))
        params = params + updates[-1]
        squares = g @ g.conj().T, g.conj().T @ g
        grams = [shampoo_decay * a + (1 - shampoo_decay) * x for a, x in zip(grams, squares, strict=True)]
        m = out_of(m) if s > 0 else m
        for side in sides:
            if s == 0:
                bases[side] = np.linalg.eigh(grams[side])[1][:, ::-1]
            elif s % every == 0:
                sizes = np.diag(bases[side].conj().T @ grams[side] @ bases[side]).real
                order = np.argsort(-sizes)
                v = np.take(v, order, axis=side)
                bases[side] = np.linalg.qr(grams[side] @ bases[side][:, order])[0]
        m = into(m) if s > 0 else m
    return np.array(updates)
