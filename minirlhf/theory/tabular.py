"""Planning and learning by tables, on text generation so small that each state can have a row.

    value iteration   V(s) ← max_a [ r + V(s') ]                            plans: knows the transitions
    Q-learning        Q(s, a) ← Q + α (r + max_a' Q(s', a') − Q)            off-policy: any behaviour will do
    SARSA             Q(s, a) ← Q + α (r + Q(s', a') − Q),  a' chosen next  on-policy: values what it does

γ = 1, since every response ends. The value after the end is 0, also where a response was cut off. The learners
see the environment through reset and step alone. ε-greedy takes a uniform token with probability ε, otherwise
argmax_a Q, the first of equals. Proved by tests/theory/test_tabular.py, against oracle.py.
"""

from collections import defaultdict, deque
from itertools import product

import numpy as np

from minirlhf.theory.environment import Ids, TextEnv

Table = dict[Ids, list[float]]  # Q: for each state met, the value of each token
ALPHA, CAPACITY = 0.5, 1000  # Q-learning's step size and memory


def value_iteration(env: TextEnv) -> dict[Ids, float]:
    """V* of every state, by max_new sweeps over all of them.

        V*(s) = max_a [ r(s, a) + V*(s') ]               Bellman's optimality equation
        V_{k+1}(s) = max_a [ r(s, a) + V_k(s') ]         a sweep, from V_0 = 0

    V_k is exact where at most k tokens are left. So the last sweep gives V* itself, and another would change
    nothing. From the last token backwards a single sweep would do: that is `oracle.optimum`.
    Source: Sutton and Barto 2018, eq. 3.19 and 4.10.
    """
    mdp = env.mdp
    V = {x + y: 0.0 for x in mdp.prompts for y in mdp.prefixes}
    for _ in range(mdp.max_new):
        before, V = V, {}
        for x, y in product(dict.fromkeys(mdp.prompts), mdp.prefixes):
            worth = []
            for a in range(mdp.vocab_size):
                reward, terminated, truncated = env.transition(x, y, a)
                worth.append(reward if terminated or truncated else reward + before[x + y + (a,)])
            V[x + y] = max(worth)
    return V


def choose_token(values: list[float], epsilon: float, rng: np.random.Generator) -> int:
    """An ε-greedy token."""
    if rng.random() < epsilon:
        return int(rng.integers(len(values)))
    return values.index(max(values))


def q_learning(env: TextEnv, steps: int, seed: int, epsilon: float, replayed: int = 8) -> Table:
    """Q* from `steps` steps of an ε-greedy behaviour. Each step also learns from `replayed` past transitions.

        Q(s, a) ← Q(s, a) + α (r + max_a' Q(s', a') − Q(s, a))

    The target holds the best next token, not the token that the behaviour takes next. So any behaviour that keeps
    trying every token in every state leads to Q*, and transitions of an older one can be learned from again.
    α may stay constant because steps are certain: every update multiplies the error of a last token by 1 − α, and
    then that of the token before it. If rewards or steps were random, α would have to fall, as it does in `sarsa`.
    The memory holds the last CAPACITY transitions.  Returns the rows of the states met.
    Source: Watkins and Dayan 1992; Lin 1992 (replay); Sutton and Barto 2018, eq. 6.8.
    """
    rng = np.random.default_rng(seed)
    Q: Table = defaultdict(lambda: [0.0] * env.mdp.vocab_size)
    replay: deque = deque(maxlen=CAPACITY)  # a new transition takes the place of the oldest
    state, _ = env.reset(seed=int(rng.integers(2**32)))
    for _ in range(steps):
        action = choose_token(Q[state], epsilon, rng)
        next_state, reward, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
        replay.append((state, action, reward, next_state, over))
        again = rng.integers(len(replay), size=replayed)  # uniformly and with replacement
        for s, a, r, s_next, done in [replay[-1], *(replay[i] for i in again)]:
            target = r if done else r + max(Q[s_next])
            Q[s][a] += ALPHA * (target - Q[s][a])
        state = env.reset()[0] if over else next_state
    return dict(Q)


def sarsa(env: TextEnv, steps: int, seed: int, epsilon: float) -> Table:
    """Q of the ε-greedy policy that is being followed.

        Q(s, a) ← Q(s, a) + n(s, a)^−0.8 (r + Q(s', a') − Q(s, a))        named after s, a, r, s', a'

    n(s, a): visits so far, this one included. The target holds the token that the policy takes next. So Q becomes
    that of the policy that is ε-greedy in Q, and it includes the cost of exploring.
    The target is random because a' is, so the step size must fall: Σ n^−0.8 = ∞ and Σ n^−1.6 < ∞.
    Source: Rummery and Niranjan 1994; Sutton and Barto 2018, eq. 6.7.
    """
    rng = np.random.default_rng(seed)
    Q: Table = defaultdict(lambda: [0.0] * env.mdp.vocab_size)
    tried = defaultdict(lambda: [0] * env.mdp.vocab_size)  # n(s, a)
    state, _ = env.reset(seed=int(rng.integers(2**32)))
    action = choose_token(Q[state], epsilon, rng)
    for _ in range(steps):
        next_state, reward, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
        tried[state][action] += 1
        alpha = tried[state][action] ** -0.8
        if done:
            next_state, _ = env.reset()
        next_action = choose_token(Q[next_state], epsilon, rng)
        target = reward if done else reward + Q[next_state][next_action]
        Q[state][action] += alpha * (target - Q[state][action])
        state, action = next_state, next_action
    return dict(Q)
