"""Defects of real projects, as patches to our code: each must fail the test that proves the opposite.

A mutant changes one place of a copy of the package. If the named test still passes, it proves nothing.

    pytest --mutants                            plants each of them and runs its test
    pytest --mutants -k score-behind-the-eos    this one alone

`seen` says where it was found: projects, and issues or pull requests of theirs, as they were in 2026. A
"common slip" is one that we could pin on nobody, "ours, earlier" one of this project. `markdown()` is the table for readers.
Run by tests/test_mutants.py.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A claim, and the defect that breaks it."""

    name: str
    claim: str
    seen: str
    file: str  # in minirlhf/
    old: str  # stands in the file exactly once
    new: str
    test: str  # node id; without [...] any of its cases


MUTANTS = [
    # Log-probs and sampling
    Mutant(
        "logprob-shifted-by-one", "The logits before a token give its log-prob", "common slip",
        "rl/rollout.py", "spoken[:, 1:])", "spoken[:, :-1])",
        "tests/rl/test_rollout.py::test_scores_equal_one_pass_a_token",
    ),
    Mutant(
        "temperature-left-out", "Log-probs are of the distribution sampled from, temperature included",
        "rlhf-book, PaLM-rlhf-pytorch, minimind; trl#3029, NeMo-RL#935",
        "rl/rollout.py", "model.logits(hidden)[:n], temperature", "model.logits(hidden)[:n]",
        "tests/rl/test_rollout.py::test_the_sampler_and_the_scorer_agree",
    ),
    Mutant(
        "cuts-left-out", "Log-probs are of the distribution sampled from, top k and top p included",
        "rlhf-book, nanochat",
        "lm/generation.py", "logprob = probabilities.gather(-1, token[:, None]).squeeze(-1).log()",
        "logprob = logits.log_softmax(-1).gather(-1, token[:, None]).squeeze(-1)",
        "tests/lm/test_generation.py::test_one_allowed_token_is_greedy",
    ),
    Mutant(
        "division-by-temperature-0", "Temperature 0 is the most probable token", "nanoGPT#738",
        "lm/generation.py", "if sampling.temperature == 0:", "if sampling.temperature < 0:",
        "tests/lm/test_generation.py::test_temperature_zero_is_the_limit_of_small_temperatures",
    ),
    Mutant(
        "one-draw-for-all-rows", "Samples of one prompt differ from the first token on", "nanochat",
        "lm/generation.py", "draw(probabilities, uniforms[alive, t])",
        "draw(probabilities, uniforms[:1, t].expand(len(alive)))",
        "tests/lm/test_generation.py::"
        "test_the_same_seed_says_the_same_and_different_seeds_differ_at_the_first_token",
    ),
    Mutant(
        "prompts-padded-on-the-right",
        "A row of a ragged batch goes on from its last token, not from padding", "LLMs-from-scratch",
        "lm/generation.py",
        "[pad_id] * (width - len(p)) + list(p) for p in prompts])  # (B, P)\n"
        "    lengths = torch.tensor([len(p) for p in prompts])  # (B,)\n"
        "    return ids, torch.arange(width) >= width - lengths[:, None]",
        "list(p) + [pad_id] * (width - len(p)) for p in prompts])  # (B, P)\n"
        "    lengths = torch.tensor([len(p) for p in prompts])  # (B,)\n"
        "    return ids, torch.arange(width) < lengths[:, None]",
        "tests/lm/test_generation.py::test_finished_rows_leave_the_cache_and_the_rest_goes_on_as_before",
    ),
    Mutant(
        "decoded-and-encoded-again", "The tokens that are scored are those that were sampled", "trlX",
        "rl/rollout.py", "    scores = score_responses(",
        "    for b, ids in enumerate(responses_of(g)):\n"
        "        again = tokenizer.encode(tokenizer.decode(ids))[: len(ids)]\n"
        "        g.ids[b, : len(again)] = torch.tensor(again, dtype=torch.int64)\n"
        "    scores = score_responses(",
        "tests/rl/test_rollout.py::test_ids_that_no_text_encodes_to_are_scored_as_they_are",
    ),
    Mutant(
        "sampler-outside-autocast", "Sampler and scorer round alike", "common slip",
        "rl/rollout.py", "    with autocast(device, models.dtype):\n        g,", "    if True:\n        g,",
        "tests/rl/test_rollout.py::test_in_bfloat16_the_sampler_is_the_scorer",
    ),
    Mutant(
        "prompt-of-another-group", "A prompt that is read once serves its own answers", "common slip",
        "rl/rollout.py", "device=rows.ids.device) // K", "device=rows.ids.device) % (len(rows.ids) // K)",
        "tests/rl/test_rollout.py::test_answers_to_one_prompt_are_scored_as_if_each_stood_alone",
    ),
    Mutant(
        "old-policy-is-another", "π_old is the policy that sampled: the first ratio is 1", "minimind",
        "rl/rollout.py", "score_tokens(models.policy, models.value_head, part, T, False)",
        "score_tokens(models.reference, models.value_head, part, T, False)",
        "tests/rl/test_ppo.py::test_with_one_step_a_round_every_round_is_on_policy",
    ),
    # Masks, padding and EOS
    Mutant(
        "eos-masked-out", "The sampled EOS is an action: it is in the mask",
        "TRL PPO, rlhf-book, tiny-grpo, trlX",
        "lm/generation.py", "is_eos.cumsum(1) - is_eos.long() == 0", "is_eos.cumsum(1) == 0",
        "tests/rl/test_rollout.py::test_the_sampled_eos_is_in_the_mask_and_nothing_after_it",
    ),
    Mutant(
        "mask-by-value", "Masks come from lengths: a token of a prompt may equal the padding",
        "tiny-grpo; trl#2778",
        "lm/generation.py", "torch.arange(width) >= width - lengths[:, None]", "ids != pad_id",
        "tests/rl/test_rollout.py::test_the_prompt_of_a_rollout_is_the_rendered_prompt",
    ),
    Mutant(
        "half-texts-scored", "A response that never ended scores missing_eos", "minRLHF, tiny-grpo",
        "rl/rollout.py", "ended = rows.ended.tolist()", "ended = [True] * len(records)",
        "tests/rl/test_rollout.py::"
        "test_a_response_that_never_ended_scores_missing_eos_and_is_not_shown_to_the_reward",
    ),
    Mutant(
        "positions-count-padding", "Positions count real tokens", "TRL GRPO and RLOO with GPT-2, minRLHF",
        "lm/model.py", "(key_mask.cumsum(-1)[:, past : past + T] - 1).clamp(min=0)",
        "torch.arange(past, past + T).expand(len(ids), T)",
        "tests/lm/test_model.py::test_a_row_of_a_ragged_batch_equals_the_row_alone[left-manual]",
    ),
    Mutant(
        "padding-seen-at-decoding", "Padding on the left stays unseen behind a cache", "mlx-lm#1906",
        "lm/model.py", "self.key_mask = F.pad(seen,", "self.key_mask = F.pad(seen | (self.length > 0),",
        "tests/lm/test_model.py::test_a_prompt_fed_in_chunks_equals_one_shot[chunks2-manual]",
    ),
    Mutant(
        "minus-infinity-in-the-mask", "A query that sees nothing is finite, and so is its gradient",
        "common slip",
        "lm/model.py", "torch.finfo(kind).min", "-torch.inf",
        "tests/lm/test_model.py::test_rows_of_padding_alone_give_finite_hidden_states_and_gradients[manual]",
    ),
    Mutant(
        "padding-in-the-policy-loss", "Padding has no influence on the policy loss", "PaLM-rlhf-pytorch",
        "rl/losses.py", "loss = (weights * torch.maximum(free, clipped)).sum()",
        "loss = weights.sum() * torch.maximum(free, clipped).mean()",
        "tests/rl/test_losses.py::test_padding_moves_neither_losses_nor_gradients[nan-policy]",
    ),
    Mutant(
        "padding-in-the-kl-loss", "Padding has no influence on the KL loss", "tiny-grpo",
        "rl/losses.py", "(weights * kl_estimate(logprobs, ref_logprobs, kind)).sum()",
        "weights.sum() * kl_estimate(logprobs, ref_logprobs, kind).mean()",
        "tests/rl/test_losses.py::test_padding_moves_neither_losses_nor_gradients[nan-kl]",
    ),
    Mutant(
        "padding-in-what-is-logged", "Padding has no influence on a logged number", "trl#6809",
        "rl/losses.py", '"ratio": masked_sum(ratio, mask)', '"ratio": ratio.sum()',
        "tests/rl/test_losses.py::test_what_is_watched_does_not_depend_on_padding",
    ),
    Mutant(
        "padding-of-entropy-minus-1", "The logged entropy is that of real tokens, between 0 and log V",
        "TRL PPO, summarize_from_feedback_details; trl#2022, #2281, #2496",
        "rl/ppo.py", 'watch["entropy"] = H.sum()', 'watch["entropy"] = torch.where(rows.mask, H, -1.0).sum()',
        "tests/rl/test_ppo.py::test_entropy_lies_between_0_and_log_v_and_is_that_of_real_tokens",
    ),
    # KL and rewards
    Mutant(
        "k1-inverted", "k1 estimates KL(π ‖ ref): its expectation is positive", "rlhf-book",
        "rl/losses.py", '{"k1": log_ratio,', '{"k1": -log_ratio,',
        "tests/rl/test_losses.py::test_expectations_of_the_kl_estimates",
    ),
    Mutant(
        "k3-inverted", "k3 estimates KL(π ‖ ref) without bias", "rlhf-book",
        "rl/losses.py", "torch.expm1(-log_ratio) + log_ratio", "torch.expm1(log_ratio) - log_ratio",
        "tests/rl/test_losses.py::test_expectations_of_the_kl_estimates",
    ),
    Mutant(
        "kl-rewarded", "A token that the policy likes more than the reference costs reward",
        "the prose of the N-details blog, a snippet of the RLOO blog",
        "rl/losses.py", "torch.where(mask, -beta * kl, 0.0)", "torch.where(mask, beta * kl, 0.0)",
        "tests/rl/test_losses.py::test_a_token_that_the_policy_likes_more_than_the_reference_costs_reward",
    ),
    Mutant(
        "kl-averaged-over-tokens", "The rewards of a response sum to score − β KL, however long it is",
        "rlhf-book",
        "rl/losses.py", "torch.where(mask, -beta * kl, 0.0)",
        "torch.where(mask, -beta * kl / mask.sum(-1, keepdim=True), 0.0)",
        "tests/rl/test_losses.py::test_rewards_sum_to_the_score_minus_beta_kl",
    ),
    Mutant(
        "k2-in-the-reward", "PPO's reward holds k1, whose mean is the KL and whose sign tells the direction",
        "minRLHF",
        "rl/config.py", 'kl: str = "k1"', 'kl: str = "k2"',
        "tests/rl/test_ppo.py::test_every_setting_of_ppos_loss_is_used",
    ),
    Mutant(
        "kl-to-the-old-policy", "The KL is to the reference, not to the policy of the last round",
        "PaLM-rlhf-pytorch",
        "rl/rollout.py", "score_tokens(models.reference, None, part, T, False)", "score_tokens(models.policy, None, part, T, False)",
        "tests/rl/test_rollout.py::test_scores_equal_one_pass_a_token",
    ),
    Mutant(
        "score-behind-the-eos", "The score stands on the last real token",
        "TRL PPO, summarize_from_feedback_details; trl#1893, #3750",
        "rl/losses.py", "mask & (mask.cumsum(-1) == mask.sum(-1, keepdim=True))",
        "torch.arange(mask.shape[1]) == mask.sum(-1, keepdim=True).clamp(max=mask.shape[1] - 1)",
        "tests/rl/test_losses.py::test_the_score_stands_on_the_last_real_token",
    ),
    Mutant(
        "score-in-the-last-column", "Where the score stands does not depend on the rest of the batch", "trlX",
        "rl/losses.py", "mask & (mask.cumsum(-1) == mask.sum(-1, keepdim=True))",
        "(torch.arange(mask.shape[1]) == mask.shape[1] - 1).expand_as(mask)",
        "tests/rl/test_losses.py::test_rewards_do_not_depend_on_padding",
    ),
    Mutant(
        "k1-in-the-loss", "A KL loss has a gradient: that of k1 is 0 on average", "minimind; NeMo-RL#2506",
        "rl/config.py", '"kl": "k3"', '"kl": "k1"',
        "tests/rl/test_algorithms.py::test_a_row_is_the_formula_of_its_paper[grpo]",
    ),
    Mutant(
        "beta-moves-the-wrong-way", "A KL above its target raises β", "common slip",
        "rl/config.py", "1 + error * n / horizon", "1 - error * n / horizon",
        "tests/rl/test_losses.py::test_adaptive_beta_moves_with_the_clipped_error_and_rests_at_the_target",
    ),
    # Advantages
    Mutant(
        "values-behind-the-end", "The value after the last token is 0, whatever the critic says there",
        "common slip; verl tests it",
        "rl/losses.py", "next_value = torch.where(mask[:, t], values[:, t], next_value)", "next_value = values[:, t]",
        "tests/rl/test_losses.py::test_masked_garbage_has_no_influence_on_gae",
    ),
    Mutant(
        "critic-sees-the-answer", "The baseline of a token is the value before it: no bias", "minimind",
        "rl/rollout.py", " head(hidden)[:n]", " head(hidden.roll(-1, 0))[:n]",
        "tests/rl/test_rollout.py::test_the_expected_gradient_is_the_gradient_of_the_objective",
    ),
    Mutant(
        "whitened-a-response-at-a-time", "Whitening keeps which response was better", "minRLHF",
        "rl/algorithms.py", "whiten(advantages, rollout.mask) if",
        "torch.stack([whiten(a, m) for a, m in zip(advantages, rollout.mask)]) if",
        "tests/rl/test_ppo.py::test_advantages_are_whitened_over_the_batch_and_returns_are_not",
    ),
    Mutant(
        "whitened-over-padding", "Whitening takes mean and variance over real tokens", "trlX",
        "rl/algorithms.py", "whiten(advantages, rollout.mask) if",
        "whiten(advantages, torch.ones_like(rollout.mask)) if",
        "tests/rl/test_ppo.py::test_no_metric_and_no_gradient_depends_on_padding[ppo]",
    ),
    Mutant(
        "whitening-keeps-the-mean", "Whitened advantages have mean 0", "torchtune",
        "rl/losses.py", "torch.where(mask, white, 0.0)", "torch.where(mask, white + mean, 0.0)",
        "tests/rl/test_losses.py::test_whitened_numbers_have_mean_0_and_variance_1_over_the_mask",
    ),
    Mutant(
        "returns-of-whitened-advantages", "The critic learns raw returns", "common slip",
        "rl/algorithms.py", "returns=returns)",
        "returns=torch.where(rollout.mask, advantages + values, 0.0))",
        "tests/rl/test_ppo.py::test_advantages_are_whitened_over_the_batch_and_returns_are_not",
    ),
    Mutant(
        "groups-of-several-prompts", "A response is compared with others to its own prompt", "common slip",
        "rl/ppo.py", "[record for record in records for _ in range(group)]", "records * group",
        "tests/rl/test_ppo.py::test_a_group_answers_one_prompt",
    ),
    # Losses and how they are summed
    Mutant(
        "clip-the-other-way", "The clip stops what would be rewarded for going on", "common slip",
        "rl/losses.py", "torch.maximum(free, clipped)", "torch.minimum(free, clipped)",
        "tests/rl/test_losses.py::test_the_corners_of_the_clipped_surrogate",
    ),
    Mutant(
        "value-clip-the-other-way", "The value clip counts only where it makes the loss larger",
        "common slip; torchtune's test takes 99 for −1.2",
        "rl/losses.py", "worse = torch.maximum(", "worse = torch.minimum(",
        "tests/rl/test_losses.py::test_the_value_clip_changes_the_loss_only_where_it_is_the_larger",
    ),
    Mutant(
        "gradient-through-advantages", "No gradient flows through the advantages", "PaLM-rlhf-pytorch",
        "rl/losses.py", "torch.where(mask, advantages.detach(), 0.0)  # (B, R)\n",
        "torch.where(mask, advantages, 0.0)  # (B, R)\n",
        "tests/rl/test_losses.py::test_no_gradient_flows_through_the_advantages",
    ),
    Mutant(
        "mean-of-micro-batch-means", "A step does not depend on how it is cut into micro-batches",
        "TRL PPO; trl#3021, #5619, #6024",
        "rl/ppo.py", "weights[part, : rows.ids.shape[1]]",
        "token_weights(rows.mask, algorithm.aggregate, config.max_new) * len(part) / len(step.scores)",
        "tests/rl/test_ppo.py::test_a_round_does_not_depend_on_micro_rows",
    ),
    Mutant(
        "sum-of-micro-batch-means", "A step does not grow with the number of micro-batches", "minRLHF",
        "rl/ppo.py", "weights[part, : rows.ids.shape[1]]", "token_weights(rows.mask, algorithm.aggregate, config.max_new)",
        "tests/rl/test_ppo.py::test_a_round_does_not_depend_on_micro_rows",
    ),
    Mutant(
        "dr-grpo-over-length", "Dr. GRPO divides by a constant, not by the length", "rlhf-book",
        "rl/losses.py", '"constant": B * longest', '"constant": B * lengths',
        "tests/rl/test_algorithms.py::test_a_row_is_the_formula_of_its_paper[dr-grpo]",
    ),
    Mutant(
        "reinforce-over-length", "REINFORCE and RLOO sum over the tokens of a response", "rlhf-book",
        "rl/losses.py", '"sum": B,', '"sum": B * lengths,',
        "tests/rl/test_losses.py::test_token_weights_of_responses_of_6_3_1_and_4_tokens",
    ),
    Mutant(
        "gradient-not-clipped", "The gradient is clipped to max_norm", "TRL PPO ignores max_grad_norm",
        "lm/optim.py", "clip_grad_norm_(parameters, self.max_norm)", 'clip_grad_norm_(parameters, float("inf"))',
        "tests/rl/test_ppo.py::test_the_gradient_is_clipped_to_max_norm",
    ),
    # The loop
    Mutant(
        "reference-is-the-policy", "The reference is frozen and shares no storage with the policy",
        "common slip",
        "rl/ppo.py", "ref or hold_frozen(deepcopy(policy).requires_grad_(False), dtype)", "ref or policy",
        "tests/rl/test_ppo.py::test_the_reference_is_frozen_and_shares_no_storage",
    ),
    Mutant(
        "dropout-left-on", "Dropout is off in sampling and in training", "trl#744",
        "rl/ppo.py", "    policy.eval()\n", "    policy.train()\n",
        "tests/rl/test_ppo.py::test_dropout_is_off_whatever_the_config_says",
    ),
    Mutant(
        "critic-not-trained", "Policy and value head are both in the optimizer", "common slip",
        "rl/ppo.py", "make_adamw(learning.values(),", "make_adamw([policy],",
        "tests/rl/test_ppo.py::test_the_value_head_is_trained_with_the_policy",
    ),
    Mutant(
        "last-minibatch-dropped", "Every response is used once an epoch", "rlhf-book",
        "rl/ppo.py", "np.array_split(rng.permutation(groups), min(most, len(groups)))",
        "np.array_split(rng.permutation(groups)[: len(groups) - len(groups) % most], most)",
        "tests/rl/test_ppo.py::test_every_response_is_used_once_an_epoch_in_a_new_order",
    ),
    Mutant(
        "same-order-each-epoch", "Each epoch has an order of its own", "common slip",
        "rl/ppo.py", "rng.permutation(groups)", "np.random.default_rng(0).permutation(groups)",
        "tests/rl/test_ppo.py::test_every_response_is_used_once_an_epoch_in_a_new_order",
    ),
    Mutant(
        "approx-kl-reversed", "The KL of a step from π_old, as logged, is never negative", "minRLHF",
        "rl/losses.py", "masked_sum(torch.expm1(log_ratio) - log_ratio, mask)", "masked_sum(log_ratio, mask)",
        "tests/rl/test_losses.py::test_approx_kl_is_never_negative_and_estimates_kl_of_old_from_new",
    ),
    Mutant(
        "last-micro-batch-logged", "What is logged is of the whole step", "GRPO-Zero",
        "rl/ppo.py", "sums.get(k, 0.0) + v.double()", "float(v)",
        "tests/rl/test_ppo.py::test_a_round_does_not_depend_on_micro_rows",
    ),
    Mutant(
        "critic-forgotten", "A resumed run goes on with its critic", "TRL PPO; trl#3308",
        "rl/ppo.py", 'learning | {"stepper": stepper}', '{"policy": policy, "stepper": stepper}',
        "tests/rl/test_ppo.py::test_a_run_that_is_interrupted_and_resumed_gives_the_same_bits[2-0.5]",
    ),
    Mutant(
        "random-numbers-start-again", "A resumed run draws the numbers that the whole run draws",
        "nanoGPT#467",
        "harness/folders.py", 'torch.set_rng_state(state["rng"])', "pass",
        "tests/lm/test_sft.py::test_interrupted_and_resumed_equals_uninterrupted[4-0.2]",
    ),
    Mutant(
        "division-by-warmup-0", "A schedule may have no warm-up", "LLMs-from-scratch",
        "lm/optim.py", "if step < warmup:", "if step <= warmup:",
        "tests/lm/test_optim.py::test_no_warmup_and_nothing_but_warmup",
    ),
    # Conversations
    Mutant(
        "gae-across-the-environment", "Credit passes over what others say, without a discount", "common slip",
        "rl/losses.py", "delta + gamma * lam * next_advantage, next_advantage)",
        "delta + gamma * lam * next_advantage, gamma * lam * next_advantage)",
        "tests/theory/test_two_turns.py::test_gae_is_its_definition_on_the_sequence_with_its_holes_closed",
    ),
    Mutant(
        "environment-in-the-loss", "What others say is not in the mask: no loss, KL or value", "common slip",
        "rl/turns.py", "torch.tensor(logp), k % 2 == 0", "torch.tensor(logp), True",
        "tests/rl/test_turns.py::test_the_mask_is_of_the_policys_turns_alone",
    ),
    Mutant(
        "environment-in-the-mean", "What others say counts in no length and no mean", "common slip",
        "rl/losses.py", "B, lengths = mask.shape[0], mask.sum(1, keepdim=True)",
        "B, lengths = mask.shape[0], (mask.flip(1).cumsum(1) > 0).sum(1, keepdim=True)",
        "tests/theory/test_two_turns.py::test_a_longer_reply_of_the_same_meaning_changes_no_update",
    ),
    Mutant(
        "conversation-encoded-again", "The next turn goes on from the ids that were sampled, not from their text",
        "trl#4543, trl#5144",
        "rl/turns.py", "asked = [[*prompts[i], *(x for ids, _ in parts[i] for x in ids)] for i in rows]",
        'render = __import__("minirlhf.lm.chat", fromlist=["render_prompt"]).render_prompt\n'
        "            asked = [render(records[i], tokenizer) for i in rows]",
        "tests/rl/test_turns.py::test_a_batch_of_conversations_equals_each_stepped_by_hand",
    ),
    Mutant(
        "environment-of-another-seed", "A resumed run hears the same: an environment draws by the row's seed", "common slip",
        "rl/turns.py", "Random(seed)", "Random()",
        "tests/rl/test_turns.py::test_an_environment_hears_the_same_after_a_resume",
    ),
    # Distillation
    Mutant(
        "kl-the-wrong-way-round", "forward is KL(teacher, student), reverse KL(student, teacher)", "common slip",
        "rl/distil.py", '{"forward": (target, logp), "reverse"', '{"reverse": (target, logp), "forward"',
        "tests/rl/test_distil.py::test_the_loss_equals_its_definition",
    ),
    Mutant(
        "temperature-shrinks-the-gradient", "T² keeps the size of the gradient of softened distributions", "common slip",
        "rl/distil.py", "return temperature**2 * (", "return (",
        "tests/rl/test_distil.py::test_at_high_temperature_the_gradient_is_that_of_matching_logits",
    ),
    Mutant(
        "padding-distilled", "Of the rows that a pass is rounded up to, none is learned", "common slip",
        "rl/distil.py", "< batch.mask.sum()  # (N',)", "< len(wanted)  # (N',)",
        "tests/rl/test_distil.py::test_a_step_is_that_of_one_token_at_a_time",
    ),
    Mutant(
        "answers-drawn-once", "The student answers anew in each step", "common slip",
        "rl/distil.py", "default_rng([run.seed, *key])", "default_rng([run.seed])",
        "tests/rl/test_distil.py::test_the_teacher_answers_once_and_the_student_anew_in_each_step[own-3]",
    ),
    # Supervised fine-tuning
    Mutant(
        "prompt-in-the-loss", "The loss stands on the assistant's turns alone", "nanochat#570",
        "lm/chat.py", "[spoken] * len(content)", "[True] * len(content)",
        "tests/lm/test_chat.py::test_every_assistant_turn_is_trained_and_nothing_else",
    ),
    Mutant(
        "eos-out-of-the-loss", "The model is trained to end",
        "transformers#23530; trl#734, #976, #1623; Megatron-Bridge#4265",
        "lm/chat.py", "[spoken] * len(content)", "[spoken] * (len(content) - spoken) + [False] * spoken",
        "tests/lm/test_chat.py::test_the_trained_ids_are_the_reply_and_eos[yes]",
    ),
    Mutant(
        "targets-masked-by-value", "A target that equals the padding keeps its loss", "LLMs-from-scratch",
        "lm/batches.py", "whole[:, 1:], where[:, 1:])", "whole[:, 1:], where[:, 1:] & (whole[:, 1:] != 0))",
        "tests/lm/test_chat.py::test_masks_go_by_position_and_not_by_the_value_of_a_token",
    ),
    Mutant(
        "targets-not-shifted", "Position t is trained to give token t + 1", "common slip",
        "lm/batches.py", "Batch(whole[:, :-1], whole[:, 1:], where[:, 1:])",
        "Batch(whole[:, :-1], whole[:, :-1], where[:, 1:])",
        "tests/lm/test_sft.py::test_a_model_that_knows_the_next_token_has_no_loss",
    ),
    Mutant(
        "end-cut-off",
        "An example too long for the context is left out: without its end it teaches to ramble",
        "LLMs-from-scratch",
        "lm/examples.py", "kept = [e for e in examples if len(e.ids) <= context and any(e.mask)]",
        "kept = [Example(e.ids[:context], e.mask[:context]) for e in examples if any(e.mask[:context])]",
        "tests/lm/test_chat.py::test_what_is_too_long_or_teaches_nothing_is_left_out_and_counted",
    ),
    Mutant(
        "mean-of-means-in-sft", "The loss of a step is its mean over tokens, however it is cut",
        "nanochat#59, rlhf-book; transformers#34191",
        "lm/sft.py", "negative_log_likelihood(model, batch).sum() / max(n_tokens, 1)",
        "negative_log_likelihood(model, batch).sum() / max(int(batch.mask.sum()), 1) * len(part) / "
        "len(examples)",
        "tests/lm/test_sft.py::test_the_gradient_does_not_depend_on_micro_batches",
    ),
    Mutant(
        "step-without-a-target", "A step without a target has loss 0 and gradient 0", "nanochat#590",
        "lm/sft.py", ".sum() / max(n_tokens, 1)", ".sum() / n_tokens",
        "tests/lm/test_sft.py::test_a_step_without_targets_has_loss_0_and_finite_gradients",
    ),
    Mutant(
        "last-micro-batch-logged-in-sft", "The logged loss is that of the whole step",
        "nanoGPT#34, #207; nanochat#515",
        "lm/sft.py", "loss += share.detach().double()", "loss = float(share.detach())",
        "tests/lm/test_sft.py::test_the_first_loss_is_that_of_guessing_and_of_the_whole_step",
    ),
    Mutant(
        "validation-by-batch-means", "The validation loss does not depend on batches", "LLMs-from-scratch",
        "lm/sft.py",
        "negative_log_likelihood(model, batch).double().sum())\n"
        "            count += int(batch.mask.sum())",
        "negative_log_likelihood(model, batch).double().mean())\n"
        "            count += 1",
        "tests/lm/test_sft.py::test_the_validation_loss_does_not_depend_on_batches_and_has_no_dropout",
    ),
    Mutant(
        "special-tokens-in-text", "Text cannot become a special token",
        "rlhf-book, TRL (a template, then encoded)",
        "lm/chat.py", "content = tokenizer.encode(text)",
        "content = sum((tokenizer.encode(part) + [tokenizer.eos_id] for part in text.split('<|endoftext|>')), [])[:-1]",
        "tests/lm/test_chat.py::test_text_cannot_inject_a_special_token",
    ),
    Mutant(
        "prompt-without-the-cue", "A model is asked in the ids after which its answers were trained",
        "rlhf-book and TRL do not check it",
        "lm/chat.py", "behind = 1 + len(", "behind = 2 + len(",
        "tests/lm/test_chat.py::test_the_prompt_is_a_strict_prefix_of_what_was_trained[yes-True]",
    ),
    # The model
    Mutant(
        "next-token-seen", "No token sees a later one", "nanochat#844",
        "lm/model.py", ".tril(past)", ".tril(past + 1)",
        "tests/lm/test_model.py::test_no_token_sees_a_later_one[None-False-manual]",
    ),
    Mutant(
        "cached-mask-upper-left", "Behind a cache the mask is aligned at its lower right",
        "LLMs-from-scratch",
        "lm/model.py", ".tril(past)", ".tril()",
        "tests/lm/test_model.py::test_a_prompt_fed_in_chunks_equals_one_shot[chunks2-manual]",
    ),
    Mutant(
        "cached-positions-off-by-one", "A cache changes no logit", "nanoGPT#613",
        "lm/model.py", "past : past + T] - 1)", "past : past + T] - int(past == 0))",
        "tests/lm/test_model.py::test_a_prompt_fed_in_chunks_equals_one_shot[chunks3-manual]",
    ),
    Mutant(
        "scores-not-scaled", "Scores are divided by √D", "common slip",
        "lm/model.py", "(q / sqrt(q.shape[-1])) @", "q @",
        "tests/lm/test_model.py::test_attention_equals_its_definition",
    ),
    Mutant(
        "dropout-in-evaluation", "Dropout of the attention is off in evaluation",
        "a trap of scaled_dot_product_attention",
        "lm/model.py", "self.dropout if self.training else 0.0", "self.dropout",
        "tests/lm/test_model.py::test_dropout_stands_in_three_places_and_only_in_training",
    ),
    Mutant(
        "gelu-by-erf", "GPT-2's GELU is the tanh form", "nanoGPT",
        "lm/model.py", 'approximate="tanh"', 'approximate="none"',
        "tests/lm/test_model.py::test_gelu_is_the_tanh_form",
    ),
    Mutant(
        "default-initialisation", "The first loss is that of guessing, log V", "LLMs-from-scratch",
        "lm/model.py", "nn.init.normal_(parameter, std=0.02)\n", "nn.init.normal_(parameter)\n",
        "tests/lm/test_model.py::test_loss_at_init_is_near_ln_of_the_vocabulary",
    ),
    Mutant(
        "bfloat16-ignored-on-a-cpu", "--dtype bfloat16 is obeyed on a CPU", "nanoGPT",
        "harness/device.py", "enabled=dtype != torch.float32)",
        'enabled=dtype != torch.float32 and device.type != "cpu")',
        "tests/harness/test_device.py::test_autocast_lowers_products_and_only_when_asked",
    ),
    Mutant(
        "pattern-forgotten", "A tokenizer that was saved encodes as before", "minbpe",
        "lm/tokenizer_files.py",
        "merges, regex, list(specials), nfc", 'merges, PATTERNS["gpt2-digits"], list(specials), nfc',
        "tests/lm/test_tokenizer.py::test_save_and_load_keep_everything",
    ),
    # The Llama family
    Mutant(
        "neighbours-turned-together", "Number i of a head turns with number i + D/2",
        "LLMs-from-scratch#747, TinyLlama#24",
        "lm/llama.py", "first, second = x.chunk(2, -1)", "first, second = x[..., ::2], x[..., 1::2]",
        "tests/lm/test_llama.py::test_the_logits_are_those_of_another_implementation[llama]",
    ),
    Mutant(
        "keys-of-another-group", "Queries h G to h G + G − 1 share key h", "jax-js#180, axlearn#842, onnx#7274",
        "lm/llama.py", "attention(q, k, v, bias, kernel",
        "attention(q.view(B, -1, T, D), *(x.repeat(1, q.shape[2] // T, 1, 1) for x in (k, v)), bias[:, :, -T:], kernel",
        "tests/lm/test_llama.py::test_attention_is_that_of_slow_loops",
    ),
    Mutant(
        "norm-behind-the-turn", "Queries and keys of Qwen3 are normed, and then turned", "asked in nanochat#743",
        "lm/llama.py", "            q, k = self.q_norm(q), self.k_norm(k)\n",
        "            return (norm(rotate(x.transpose(1, 2), *turn)) for norm, x in ((self.q_norm, q), (self.k_norm, k)))\n",
        "tests/lm/test_llama.py::test_the_logits_are_those_of_another_implementation[qwen3]",
    ),
    Mutant(
        "columns-behind-the-cache", "A new token turns by the real tokens before it, not by columns", "unsloth#3699",
        "lm/llama.py", "self.turn(positions), bias",
        "self.turn(cache.length + torch.arange(ids.shape[1]) if cache and cache.length else positions), bias",
        "tests/lm/test_llama.py::test_padding_on_the_left_and_the_cache_change_nothing[llama]",
    ),
    Mutant(
        "embedding-for-the-head", "A head of its own gives the logits", "pegainfer#544",
        "lm/llama.py", "(self.lm_head or self.wte).weight", "self.wte.weight",
        "tests/lm/test_llama.py::test_the_logits_are_those_of_another_implementation[mistral]",
    ),
    # Chat formats and files from elsewhere
    Mutant(
        "gap-in-the-loss", "What stands behind the EOS of an answer is not trained", "common slip",
        "lm/chat.py", "[False] * len(behind)", "[spoken] * len(behind)",
        "tests/lm/test_chat_formats.py::test_the_loss_stands_on_each_answer_and_the_eos_that_ends_it[chatml]",
    ),
    Mutant(
        "own-system-text-dropped", "A model is asked behind the system text that its template brings",
        "aprender#3990, api-for-open-llm#240",
        "lm/chat.py", 'form.system and messages[0]["role"] != "system"', 'form.system and messages[0]["role"] == ""',
        "tests/lm/test_chat_formats.py::test_the_models_own_system_text_is_found_in_its_template_and_kept",
    ),
    Mutant(
        "gguf-rows-left-as-they-are", "The rows of q and k in a Llama's GGUF file are put back",
        "transformers#31766, vllm-metal#480",
        "lm/gguf_models.py", "            return separate(x, ", "            return (lambda x, heads: x)(x, ",
        "tests/lm/test_gguf_models.py::test_a_written_model_is_read_back_to_the_bit[llama]",
    ),
    Mutant(
        "largest-weight-of-a-block-wraps", "The largest weight of a block of 8 bits is 127 steps", "common slip",
        "lm/quantize.py", "amax(1, keepdim=True) / 127", "amax(1, keepdim=True) / 128",
        "tests/lm/test_gguf.py::test_8_bits_are_written_with_halves_rounded_away_from_0",
    ),
    # Preferences
    Mutant(
        "lora-scaled-by-rank-over-alpha", "What an adapter adds counts alpha / rank times", "common slip",
        "lm/lora.py", "F.linear(self.alpha / len(self.A) *", "F.linear(len(self.A) / self.alpha *",
        "tests/lm/test_lora.py::test_the_output_is_that_of_w_plus_alpha_over_r_times_b_a",
    ),
    Mutant(
        "reference-with-adapters", "The reference of an adapted policy is the network without adapters", "common slip",
        "lm/lora.py", "layer.on = False", "layer.on = True",
        "tests/lm/test_lora.py::test_the_reference_without_adapters_scores_as_a_copy_of_the_base_to_the_bit",
    ),
    Mutant(
        "merged-without-the-scale", "A merged network computes what it did with adapters", "common slip",
        "lm/lora.py", "+= self.alpha / len(self.A) * self.B @ self.A", "+= self.B @ self.A",
        "tests/lm/test_lora.py::test_merged_it_computes_the_same_and_has_the_names_of_the_base",
    ),
    Mutant(
        "dpo-without-reference", "DPO's reward is a log-ratio to the reference", "a trap of --reference-free losses",
        "preferences/dpo.py", "return beta * (logprobs - ref_logprobs)", "return beta * logprobs",
        "tests/theory/test_oracle.py::test_dpo_starts_at_log_2",
    ),
    Mutant(
        "soft-label-on-one-side", "A soft label weighs both outcomes", "common slip",
        "preferences/train_reward.py", "-(p * F.logsigmoid(delta) + (1 - p) * F.logsigmoid(-delta)).mean()",
        "-(p * F.logsigmoid(delta)).mean()",
        "tests/theory/test_oracle.py::test_dpo_on_exact_preferences_finds_the_optimum_of_the_objective",
    ),
    # Records of the user's
    Mutant(
        "base-asked-without-a-break", "A base model is asked in the format of its documents", "common slip",
        "lm/records.py", 'return "" if task_named(record) else "\\n"', 'return ""',
        "tests/faults/test_own_records.py::test_fault_08_a_base_model_is_asked_in_the_format_of_its_documents",
    ),
    Mutant(
        "text-beside-a-prompt", "A record of two kinds is one and the same for all scripts", "common slip",
        "lm/reading.py", 'else {"text"} if "prompt" in r else ())', "else ())",
        "tests/faults/test_own_records.py::test_fault_09_a_record_of_two_kinds_is_one_and_the_same_everywhere",
    ),
    Mutant(
        "fields-taken-by-str", "A label or reference that is no text or number is refused", "common slip",
        "lm/records.py", "if not all(map(is_plain, several)):", "if False:",
        "tests/faults/test_own_records.py::test_fault_10_fields_that_are_compared_as_text_are_checked",
    ),
    Mutant(
        "one-label-missing", "One record without a label does not take accuracy from all", "common slip",
        "evaluation/catalogue.py", "return labels if any(labels) else None", "return labels if all(labels) else None",
        "tests/faults/test_own_records.py::"
        "test_fault_11_records_without_a_label_are_left_out_aloud_and_the_rest_is_scored",
    ),
    Mutant(
        "column-task-selects", "A user's column `task` selects no built-in parser, metric or reward", "common slip",
        "lm/reading.py", '({OF_FILE: True} if "task" in r else {})', "{}",
        "tests/faults/test_own_records.py::test_fault_12_a_users_column_task_selects_nothing_that_is_built_in",
    ),
    Mutant(
        "suffix-decides", "The content and not the name says whether a file holds records", "common slip",
        "lm/reading.py", "yield from json_rows(text, path)",
        'yield from json_rows(text, path) if path.endswith(".jsonl") else [(path, {"text": text})]',
        "tests/faults/test_own_records.py::test_fault_13_no_file_of_records_is_read_as_one_text",
    ),
    # Folders
    Mutant(
        "touched-too-early", "A run that is refused leaves an earlier one as it was", "ours, earlier",
        "harness/loop.py", "        self.folder.hold()\n", "        self.folder.hold(), self.folder.begin(self.start)\n",
        "tests/faults/test_folders.py::test_fault_14_a_refused_run_changes_no_byte_of_an_earlier_one",
    ),
    Mutant(
        "written-over", "A run that stands in the folder is moved aside", "ours, earlier",
        "harness/folders.py", "        folder.rename(aside)\n", "        pass\n",
        "tests/faults/test_folders.py::test_fault_15_an_earlier_run_is_moved_aside_and_nothing_of_it_is_lost",
    ),
    Mutant(
        "two-runs-at-once", "A lock keeps a second run out of a folder", "ours, earlier",
        "harness/files.py", "            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n", "            pass\n",
        "tests/faults/test_folders.py::test_fault_16_a_second_run_into_a_folder_is_refused",
    ),
    Mutant(
        "mark-left-standing", "A kill while a checkpoint is replaced leaves no mixture of two", "ours, earlier",
        "lm/checkpoint.py", 'for name in ("config.json", "adapter_config.json", "adapter_model', 'for name in ("adapter_config.json", "adapter_model',
        "tests/faults/test_folders.py::test_fault_17_a_checkpoint_of_each_kind_is_unmarked_before_it_is_written",
    ),
    Mutant(
        "start-without-tokenizer", "A resume from other weights or another tokenizer is refused", "ours, earlier",
        "lm/checkpoint.py",
        'hashlib.sha256(repr((tokenizer.token_bytes, tokenizer.special_ids)).encode() if tokenizer else b"")',
        "hashlib.sha256()",
        "tests/faults/test_folders.py::test_fault_18_what_a_run_starts_from_is_weights_and_tokenizer",
    ),
    Mutant(
        "content-taken-on-trust", "A file of ours with wrong content is refused in one line", "ours, earlier",
        "lm/checkpoint.py", '"examples?": range(MOST_EXAMPLES + 1)', '"examples?": range(2**63)',
        "tests/faults/test_folders.py::test_fault_19_a_run_json_with_wrong_content_is_refused_wherever_it_is_read",
    ),
    # Numbers that mislead
    Mutant(
        "worth-on-few-samples", "A figure is not shown on fewer than 200 effective samples of its own", "ours, earlier",
        "evaluation/optimum.py", 'if found["effective_size"] >= LEAST and n < inf:', "if n < inf:",
        "tests/faults/test_numbers.py::test_fault_01_worth_best_of_n_has_its_own_size_and_interval_or_none",
    ),
    Mutant(
        "few-runs-as-sure-as-many-prompts", "Few training runs have the t of few", "ours, earlier",
        "metrics/training_runs.py", "t_runs * a + t_prompts", "t_prompts * a + t_prompts",
        "tests/faults/test_numbers.py::test_fault_02_few_runs_on_shared_prompts_reject_in_5_percent",
    ),
    Mutant(
        "intervals-of-no-width", "Units that all say the same do not make an interval of width 0", "ours, earlier",
        "metrics/intervals.py", "return not np.ptp(x) <= 1e-12 * max(np.abs(x).max(), scale)", "return True",
        "tests/faults/test_numbers.py::test_fault_03_no_interval_has_no_width_of_means",
    ),
    Mutant(
        "rule-not-said", "A verdict says by which p it was decided", "ours, earlier",
        "evaluation/verdicts.py", '"p_holm": or_none(p), "decided_by": "p_holm"', '"p_holm": or_none(p)',
        "tests/faults/test_numbers.py::test_fault_04_a_row_says_which_rule_decided_and_goes_by_it",
    ),
    Mutant(
        "kl-to-what-is-compared", "KL and J are to the model that a policy was trained against", "ours, earlier",
        "evaluation/collect.py", "return {m: given or known or last for m, known in own.items()} | {last: last}",
        "return dict.fromkeys(own, against)",
        "tests/faults/test_numbers.py::"
        "test_fault_05_kl_is_to_what_a_policy_was_trained_against_whatever_it_is_compared_with",
    ),
    Mutant(
        "idle-options-taken", "An option that can do nothing is refused", "ours, earlier",
        "harness/options.py", """raise UserError(f"{flags[name]} can do nothing {why}: {'give both, or ' * ('without' in why)}leave it out")""", "continue",
        "tests/faults/test_numbers.py::test_fault_06_an_option_that_cannot_act_is_refused_in_every_script",
    ),
    Mutant(
        "share-of-nothing", "No share is said of what leaves nothing to gain", "ours, earlier",
        "rl/optimum.py", "np.where(room > beta / 10, room, nan)", "np.where(room > 0, room, nan)",
        "tests/faults/test_numbers.py::test_fault_07_no_share_is_said_of_what_leaves_nothing_to_gain",
    ),
    # Smaller weights
    Mutant(
        "halves-in-pairs", "The low halves of bytes are the first weights of a block, the high ones the others",
        "imp#567, 1bit-MONSTER#572",
        "lm/quantize.py", "return torch.cat([q & 15, q >> 4], 1).float()",
        "return torch.stack([q & 15, q >> 4], 2).flatten(1).float()",
        "tests/lm/test_gguf.py::test_4_bits_are_the_low_halves_and_then_the_high_ones",
    ),
    Mutant(
        "scale-without-its-sign", "Blocks are those of ggml's reference, bit for bit", "common slip",
        "lm/quantize.py", "d = w.gather(1, w.abs().argmax(1, keepdim=True)) / -8", "d = w.abs().amax(1, keepdim=True) / -8",
        "tests/lm/test_quantize.py::test_blocks_are_those_of_ggml_to_the_bit",
    ),
    Mutant(
        "pruned-by-a-threshold", "Pruning takes the share that was asked for, whatever ties", "SparseGPT, Wanda",
        "lm/quantize.py", "layer.weight.view(-1)[order[: round(share * len(order))]] = 0",
        "layer.weight[layer.weight.abs() <= layer.weight.abs().view(-1)[order[min(int(share * len(order)), len(order) - 1)]]] = 0",
        "tests/lm/test_quantize.py::test_pruning_takes_the_share_of_least_magnitude_from_each_matrix_and_nothing_else",
    ),
    # Few examples
    Mutant(
        "test-prompts-as-examples", "No example in front of a question answers a test prompt", "common slip",
        "evaluation/questions.py", "answered(r) and asked.isdisjoint(asked_in(r))", "answered(r)",
        "tests/evaluation/test_questions.py::test_no_shot_answers_a_test_prompt_in_any_turn_whatever_its_system_says",
    ),
    Mutant(
        "optimum-of-another-prompt", "J* is of the reference as it is asked: that of training had no examples", "ours, earlier",
        "evaluation/collect.py", "if ref.shots or runs[last]", "if runs[last]",
        "tests/evaluation/test_collect.py::test_behind_examples_the_optimum_of_training_is_none",
    ),
    # Audit
    Mutant(
        "swap-inside-words", "A swap takes whole words: motherhood is not fatherhood", "common slip",
        "evaluation/audit.py", "({texts})(?!{LETTER})", "({texts})",
        "tests/evaluation/test_audit.py::test_a_swap_keeps_all_else_and_the_case",
    ),
    Mutant(
        "each-test-alone", "All tests of an audit are one family, shared between its models", "common slip",
        "evaluation/audit.py", "adjust(family, 0.05 / len(models))", "[adjust([tests], 0.05) for tests in family]",
        "tests/evaluation/test_audit.py::test_interval_p_and_holm_are_those_of_the_metrics_wing",
    ),
    Mutant(
        "recital-without-held-out", "What is continued as often where it was held out is no recital", "common slip",
        "evaluation/audit.py", "fisher(exact[m], x)", "fisher(exact[m], [0] * len(x))",
        "tests/evaluation/test_audit.py::test_what_grammar_alone_continues_is_no_recital",
    ),
    Mutant(
        "recital-beside-another-task", "What is recited is held against held-out texts of its kind", "ours, earlier",
        "tools/audit.py", "held.get(name, records)", "records",
        "tests/tools/test_audit.py::test_training_texts_are_held_against_others_of_their_kind_whatever_is_asked",
    ),
    Mutant(
        "twins-counted-twice", "Prompts that a swap makes equal are one piece of evidence", "ours, earlier",
        "evaluation/audit.py", "means = {m: np.bincount(unit, x) / np.bincount(unit)", "means = {m: np.array(x, float)",
        "tests/evaluation/test_audit.py::"
        "test_equal_prompts_twins_of_a_swap_and_turns_of_a_conversation_are_one_piece_of_evidence",
    ),
]


def markdown() -> str:
    """The table for readers: claim, mutant, where it was seen, the test that it fails."""
    rows = [f"| {m.claim} | `{m.name}` | {m.seen} | `{m.test.removeprefix('tests/')}` |" for m in MUTANTS]
    return "\n".join(["| Claim | Mutant | Seen in | Fails |", "| --- | --- | --- | --- |", *rows])
