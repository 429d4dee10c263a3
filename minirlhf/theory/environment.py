"""Text generation as a sequential decision problem, in Gymnasium's convention and without the package.

    state    s_t = prompt + y_<t         action  a_t = y_t, a token id         s_{t+1} = s_t + (a_t)
    reward   score(prompt, y)            at EOS, which terminates
             missing_eos                 at the max_new-th token, if it is not EOS: truncated
             0                           before

Only the prompt is random. The KL penalty is not here: log π belongs to whoever acts, and `losses.token_rewards` adds
the penalty to a whole rollout. A batched rollout is B copies of this environment, stepped side by side.
Proved by tests/theory/test_environment.py.
"""

from itertools import pairwise

import numpy as np

from minirlhf.theory.oracle import TokenMDP

Ids = tuple[int, ...]


class TextEnv:
    """One response at a time to one of the MDP's prompts, written token by token.

        >>> env = TextEnv(TokenMDP(4, eos_id=0, max_new=3, prompts=((2, 1),), reward=lambda x, y: float(x == y)))
        >>> env.reset(seed=0)
        ((2, 1), {'prompt': 0})
        >>> env.step(2)
        ((2, 1, 2), 0.0, False, False, {'prompt': 0})
        >>> env.step(1)
        ((2, 1, 2, 1), 0.0, False, False, {'prompt': 0})
        >>> env.step(0)
        ((2, 1, 2, 1, 0), 1.0, True, False, {'prompt': 0})

    An observation is a tuple of ids: the prompt and the response so far. `info` holds the prompt's index.
    Every state shows how many of the max_new tokens are left. So the value after `truncated` is 0, as after
    `terminated`: do not bootstrap from it.  Raises ValueError if one prompt is the beginning of another.
    Source: Gymnasium's Env (Towers et al. 2024); Pardo et al. 2018 (time limits).
    """

    def __init__(self, mdp: TokenMDP):
        for short, long in pairwise(sorted(set(mdp.prompts))):  # a beginning sorts just before the whole
            if long[: len(short)] == short:
                raise ValueError(f"prompt {short} begins prompt {long}: an observation could belong to both")
        self.mdp = mdp
        self.rng = np.random.default_rng()
        self.prompt = 0  # the index of the prompt
        self.response: Ids = ()
        self.running = False

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[Ids, dict[str, int]]:
        """Begin an episode with a prompt drawn uniformly: (observation, info).

        seed: restarts the draws; None continues them.  options={"prompt": i} takes prompt i instead and draws
        nothing.  Raises ValueError if there is no prompt i.
        """
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        index = options["prompt"] if options else int(self.rng.integers(len(self.mdp.prompts)))
        if index not in range(len(self.mdp.prompts)):
            raise ValueError(f"prompt {index}: there are {len(self.mdp.prompts)}, counted from 0")
        self.prompt, self.response, self.running = index, (), True
        return self.mdp.prompts[self.prompt], {"prompt": self.prompt}

    def step(self, action: int) -> tuple[Ids, float, bool, bool, dict[str, int]]:
        """Append a token: (observation, reward, terminated, truncated, info). Raises RuntimeError after the last."""
        if not self.running:
            raise RuntimeError("no episode is running: call reset() before the first step and after the last")
        if action not in range(self.mdp.vocab_size):
            raise ValueError(f"action {action!r} is no token: want an id from 0 to {self.mdp.vocab_size - 1}")
        action, prompt = int(action), self.mdp.prompts[self.prompt]
        reward, terminated, truncated = self.transition(prompt, self.response, action)
        self.response += (action,)
        self.running = not (terminated or truncated)
        return prompt + self.response, reward, terminated, truncated, {"prompt": self.prompt}

    def transition(self, prompt: Ids, response: Ids, action: int) -> tuple[float, bool, bool]:
        """(reward, terminated, truncated) of an action in any state. Planning needs this model of the environment."""
        if action == self.mdp.eos_id:
            return float(self.mdp.reward(prompt, response)), True, False
        if len(response) + 1 == self.mdp.max_new:
            return float(self.mdp.missing_eos), False, True
        return 0.0, False, False
