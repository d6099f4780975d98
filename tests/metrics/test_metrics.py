"""Metrics against values worked out by hand and against scipy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, entropy

from excise.metrics.correction import corrected_ua, relative_ua, rogan_gladen
from excise.metrics.neighbours import neighbour_damage
from excise.metrics.paired import McNemar, mcnemar, paired_difference
from excise.metrics.rates import Estimate, any_of_n, bootstrap, harmonic_mean, harmonic_of_rates, rate
from excise.metrics.unlearning import (
    Seen,
    finer_scale,
    names_scores,
    replacement_entropy,
    replacements,
    selective_alignment,
    sequence_matrix,
    unlearning,
    worst_label,
)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_rate_is_the_wilson_interval(hits_n):
    hits, n = hits_n
    found = rate([True] * hits + [False] * (n - hits))
    interval = binomtest(hits, n).proportion_ci(method="wilson")
    assert found.value == hits / n
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_rate_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        rate([])


def test_harmonic_mean():
    assert harmonic_mean([1, 1, 0.25]) == pytest.approx(0.5)
    assert harmonic_mean([1, 0]) == 0
    found = harmonic_of_rates([[True] * 9 + [False], [True] * 50 + [False] * 50])
    assert found.value == pytest.approx(2 / (1 / 0.9 + 1 / 0.5))
    assert found.low < found.value < found.high
    assert found == harmonic_of_rates([[True] * 9 + [False], [True] * 50 + [False] * 50])


@given(st.integers(0, 1000))
def test_any_of_n_grows_with_the_budget(seed):
    hits = np.random.default_rng(seed).random((30, 12)) < 0.1
    rates = [any_of_n(hits, n).value for n in range(1, 13)]
    assert rates == sorted(rates)
    assert rates[0] == hits[:, 0].mean()


def test_any_of_n_is_what_chance_gives_and_refuses_more_tries_than_there_are():
    hits = np.random.default_rng(0).random((4000, 50)) < 0.01
    found = any_of_n(hits, 50)
    assert found.low < 1 - (1 - 0.01) ** 50 < found.high
    with pytest.raises(ValueError, match="a budget of 51 tries; there are 50"):
        any_of_n(hits, 51)


def test_bootstrap_resamples_clusters_not_observations():
    clusters = [np.full(20, v, dtype=float) for v in (0.0, 1.0, 0.0, 1.0)]
    wide = bootstrap(clusters, np.mean)
    narrow = bootstrap([np.array([v]) for c in clusters for v in c], np.mean)
    assert wide.value == narrow.value == 0.5
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


SEEN = Seen(
    {"object": ["cat", "cat", "dog", "dog", "dog", "car"], "style": ["neon", "dots", "neon", "dots", "neon", "dots"]},
    {"object": ["dog", "cat", "dog", "dog", "none", "car"], "style": ["neon", "dots", "neon", "neon", "neon", "dots"]},
)


def test_unlearning_of_an_object_by_hand():
    found = unlearning(SEEN, [("object", "cat")])
    assert found["ua"].value == 1 / 2  # one of two cat prompts shows no cat
    assert found["ira"].value == 3 / 4  # dog, dog, -, car
    assert found["cra"].value == 3 / 4  # one dots became neon
    assert found["h"].value == pytest.approx(3 / (2 + 4 / 3 + 4 / 3))


def test_unlearning_of_a_style_and_of_both():
    found = unlearning(SEEN, [("style", "dots")])
    assert (found["ua"].value, found["ira"].value, found["cra"].value) == (1 / 3, 1, 1 / 3)
    both = unlearning(SEEN, [("object", "cat"), ("style", "dots")])
    assert both["ua"].n == 2 + 3
    assert both["ira"].n == 2 * 2  # the two neon dogs, for both attributes


def test_replacements():
    assert replacements(SEEN, "object", "cat") == {"dog": 1, "cat": 1}
    nothing: dict[str, list[str]] = {"object": [], "style": []}
    assert replacements(Seen(nothing, nothing), "object", "cat") == {}


OBJECTS, STYLES = ["cat", "dog", "car", "cake"], ["neon", "dots", "sepia"]


def worlds(min_seeds=1, max_seeds=2):
    """Every object in every style, some seeds a cell, and anything a judge might have said of the images."""

    def judged(seeds):
        cells = [(o, s) for o in OBJECTS for s in STYLES for _ in range(seeds)]
        sees = st.tuples(
            st.lists(st.sampled_from([*OBJECTS, "none"]), min_size=len(cells), max_size=len(cells)),
            st.lists(st.sampled_from([*STYLES, "none"]), min_size=len(cells), max_size=len(cells)),
        )
        asked = {"object": [o for o, _ in cells], "style": [s for _, s in cells]}
        return sees.map(lambda both: Seen(asked, {"object": both[0], "style": both[1]}))

    return st.integers(min_seeds, max_seeds).flatmap(judged)


def within(estimate):
    return 0 <= estimate.low <= estimate.value + 1e-12 and estimate.value <= estimate.high + 1e-12 <= 1 + 1e-9


@given(worlds(), st.sampled_from([("object", "cat"), ("style", "dots")]))
def test_every_rate_of_a_target_is_a_share(seen, target):
    found = unlearning(seen, [target])
    assert all(within(found[name]) for name in ("ua", "ira", "cra", "ira_worst", "cra_uc"))
    assert found["ira_worst"].value <= found["ira"].value  # the grid is balanced, so IRA is the mean over labels
    assert 0 <= found["h"].value <= max(found[name].value for name in ("ua", "ira", "cra"))
    assert within(selective_alignment(seen, [target]))
    assert all(within(e) for e in finer_scale(seen, "cat", "dots").values())


def test_the_worst_label_by_hand():
    found = unlearning(SEEN, [("object", "cat")])
    assert worst_label(SEEN, [("object", "cat")]) == ("dog", rate([True, True, False]))
    assert found["ira_worst"] == rate([True, True, False])
    with pytest.raises(ValueError, match="without one"):
        worst_label(Seen({"object": ["cat"]}, {"object": ["cat"]}), [("object", "cat")])


def test_the_benchmarks_cra_counts_the_targets_own_prompts():
    assert unlearning(SEEN, [("object", "cat")])["cra_uc"] == rate([True] * 5 + [False])
    assert unlearning(SEEN, [("style", "dots")])["cra_uc"].value == 4 / 6


def test_a_perfect_judge_and_an_untouched_model():
    untouched = Seen(SEEN.asked, SEEN.asked)
    found = unlearning(untouched, [("object", "cat")])
    assert [found[name].value for name in ("ua", "ira", "cra", "ira_worst", "cra_uc", "h")] == [0, 1, 1, 1, 1, 0]


def test_a_judge_with_permuted_labels_gives_chance():
    rng = np.random.default_rng(0)
    asked = {"object": OBJECTS * 3000, "style": STYLES * 4000}
    seen = Seen(asked, {name: rng.permutation(labels).tolist() for name, labels in asked.items()})
    found = unlearning(seen, [("object", "cat")])
    for name, chance in (("ua", 3 / 4), ("ira", 1 / 4), ("cra", 1 / 3), ("cra_uc", 1 / 3)):
        assert found[name].value == pytest.approx(chance, abs=0.03), name
    assert selective_alignment(seen, [("object", "cat")]).value == pytest.approx(1 / 3, abs=0.03)


def test_noise_has_the_best_ua_and_keeps_nothing():
    nothing = Seen(SEEN.asked, {"object": ["none"] * 6, "style": ["none"] * 6})
    found = unlearning(nothing, [("object", "cat")])
    assert (found["ua"].value, found["ira"].value, found["h"].value) == (1, 0, 0)


def test_selective_alignment_by_hand():
    assert selective_alignment(SEEN, [("object", "cat")]) == rate([True, True])
    assert selective_alignment(SEEN, [("style", "dots")]) == rate([True, True, True])
    assert selective_alignment(SEEN, [("object", "car"), ("style", "neon")]).value == 2 / 4  # dots; -, dog, -
    with pytest.raises(ValueError, match="at least one"):
        selective_alignment(SEEN, [("object", "whale")])


def test_finer_scale_by_hand():
    found = finer_scale(SEEN, "dog", "neon")
    assert found["ua"] == rate([False, True])  # one dog in neon is there, one is not
    assert found["sc"] == rate([True])  # the neon cat prompt: a dog, but neon
    assert found["oc"] == rate([True])  # the dotted dog came out neon, yet a dog
    assert found["up"] == rate([True, True])  # cat and car, dotted


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 50)))
def test_replacement_entropy_is_shannons(counts):
    found = replacement_entropy(counts, target="a")
    rest = [n for label, n in counts.items() if label != "a"]
    expected = entropy(rest, base=2) if sum(rest) else 0
    assert found == pytest.approx(expected, abs=1e-9)
    assert 0 <= found <= np.log2(7) + 1e-9


def test_replacement_entropy_by_hand():
    assert replacement_entropy({}) == replacement_entropy({"dog": 7}) == replacement_entropy({"cat": 3}, "cat") == 0
    assert replacement_entropy({"dog": 2, "car": 1, "cake": 1}) == 1.5
    assert replacement_entropy({"dog": 5, "cat": 5}) == 1
    assert replacement_entropy({"dog": 5, "cat": 5}, target="cat") == 0


def test_names_scores_by_hand():
    found = names_scores([True] + [False] * 9, [True] * 3 + [False])
    assert (found["acc_e"].value, found["acc_r"].value) == (0.1, 0.75)
    assert found["h_o"].value == pytest.approx(2 / (1 / 0.9 + 1 / 0.75))
    assert names_scores([True, True], [True])["h_o"].value == 0


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.lists(st.booleans(), min_size=1, max_size=30))
def test_names_scores_lie_between_their_parts(erased, kept):
    found = names_scores(erased, kept)
    parts = 1 - found["acc_e"].value, found["acc_r"].value
    assert 0 <= found["h_o"].value <= 1
    assert min(parts) - 1e-12 <= found["h_o"].value <= max(parts) + 1e-12 or min(parts) == 0


def test_sequence_matrix_by_hand():
    matrix, rebound = sequence_matrix([[0.9], [0.8, 1.0], [0.5, 1.0, 0.7]])
    np.testing.assert_array_equal(matrix, [[0.9, np.nan, np.nan], [0.8, 1.0, np.nan], [0.5, 1.0, 0.7]])
    assert rebound.tolist() == pytest.approx([0.4, 0, 0])
    with pytest.raises(ValueError, match="step 2 has 1"):
        sequence_matrix([[0.9], [0.8]])
    with pytest.raises(ValueError, match="at least one step"):
        sequence_matrix([])


@given(st.floats(0, 1), st.floats(0.55, 1), st.floats(0.55, 1))
def test_rogan_gladen_undoes_the_judges_errors(true, s, q):
    observed = true * s + (1 - true) * (1 - q)
    assert rogan_gladen(observed, s, q) == pytest.approx(true, abs=1e-9)
    assert rogan_gladen(true, 1, 1) == pytest.approx(true)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.5, 1), st.floats(0.51, 1))
def test_rogan_gladen_is_a_share_and_rises_with_what_was_seen(x, y, s, q):
    low, high = (rogan_gladen(v, s, q) for v in sorted((x, y)))
    assert 0 <= low <= high <= 1


def test_rogan_gladen_recovers_a_known_rate_from_simulated_errors():
    rng = np.random.default_rng(1)
    shown = rng.random(40_000) < 0.3
    judged = np.where(shown, rng.random(40_000) < 0.85, rng.random(40_000) < 0.1)
    assert judged.mean() == pytest.approx(0.325, abs=0.01)
    assert rogan_gladen(judged.mean(), 0.85, 0.9) == pytest.approx(0.3, abs=0.01)
    found = corrected_ua(rate(~judged), 0.85, 0.9)
    assert found.low < 0.7 < found.high
    assert found.n == 40_000


def test_corrected_ua_of_a_perfect_judge_is_ua():
    ua = rate([True] * 7 + [False] * 3)
    found = corrected_ua(ua, 1, 1)
    assert (found.value, found.low, found.high) == pytest.approx((ua.value, ua.low, ua.high))
    assert corrected_ua(Estimate(1, 0.9, 1, 20), 0.8, 0.9) == Estimate(1, 1, 1, 20)  # below the false alarms: clipped


@pytest.mark.parametrize(
    ("observed", "s", "q", "message"),
    [(0.3, 0.5, 0.5, "tells nothing"), (1.1, 0.9, 0.9, "observed"), (0.3, -0.1, 0.9, "sens"), (0.3, 0.9, 2, "spec")],
)
def test_rogan_gladen_refuses(observed, s, q, message):
    with pytest.raises(ValueError, match=message):
        rogan_gladen(observed, s, q)


def test_relative_ua_counts_only_what_was_there():
    assert relative_ua([True, True, True, False], [False, False, True, False]) == rate([True, True, False])
    with pytest.raises(ValueError, match="in no image"):
        relative_ua([False], [False])
    with pytest.raises(ValueError, match="same prompts"):
        relative_ua([True], [False, True])


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs(pairs):
    a, b = zip(*pairs, strict=True)
    found, swapped = mcnemar(a, b), mcnemar(b, a)
    assert (found.b, found.c) == (sum(x and not y for x, y in pairs), sum(y and not x for x, y in pairs))
    assert found == McNemar(swapped.p, swapped.c, swapped.b)
    assert 0 < found.p <= 1


def test_mcnemar_by_hand():
    assert mcnemar([True] * 8, [False] * 8).p == pytest.approx(2 / 2**8)
    assert mcnemar([True] * 5, [True] * 5) == McNemar(1.0, 0, 0)
    with pytest.raises(ValueError, match="same images"):
        mcnemar([True], [True, False])


def test_paired_difference_knows_its_clusters():
    rng = np.random.default_rng(2)
    shift = np.repeat(rng.normal(0.3, 0.5, size=30), 20)  # what 20 images of one prompt have in common
    a, b = rng.normal(size=600) * 0.1 + shift, np.zeros(600)
    clustered = paired_difference(a, b, np.repeat(np.arange(30), 20))
    alone = paired_difference(a, b, np.arange(600))
    assert clustered.value == pytest.approx(a.mean()) == pytest.approx(alone.value)
    assert clustered.high - clustered.low > 2 * (alone.high - alone.low)
    assert clustered.low < 0.3 < clustered.high
    assert clustered == paired_difference(a, b, np.repeat(np.arange(30), 20))
    assert paired_difference(a, a, np.arange(600)) == Estimate(0, 0, 0, 600)


def test_paired_difference_takes_tuples_as_clusters_and_refuses_a_single_one():
    ids = [("cat", 1), ("cat", 1), ("dog", 2)]
    assert paired_difference([1, 1, 0], [0, 0, 0], ids).value == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="at least two"):
        paired_difference([1, 0], [0, 0], ["cat", "cat"])
    with pytest.raises(ValueError, match="cluster ids"):
        paired_difference([1, 0], [0, 0], ["cat"])


def test_neighbour_damage_by_hand():
    found = neighbour_damage([0.4, 0.1, 0.2, 0.3], [True] * 4, [True, False, False, True], bins=2)
    assert [edge for b in found for edge in (b.low, b.high)] == pytest.approx([0.1, 0.25, 0.25, 0.4])
    assert [b.after.value for b in found] == [0, 1]
    assert [b.damage.value for b in found] == [1, 0]
    assert found[0].before == rate([True, True])


@settings(max_examples=10)  # each resamples 16,000 times
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.booleans(), st.booleans()), min_size=20, max_size=20, unique_by=lambda t: t[0]
    )
)
def test_neighbour_damage_loses_no_name_and_no_order(rows):
    distances, before, after = (list(column) for column in zip(*rows, strict=True))
    found = neighbour_damage(distances, before, after, bins=4)
    order = np.random.default_rng(0).permutation(20)
    shuffled = neighbour_damage(*(np.array(column)[order] for column in (distances, before, after)), bins=4)
    assert sum(b.after.n for b in found) == 20
    assert [b.after for b in found] == [b.after for b in shuffled]
    assert all(x.high == y.low for x, y in pairwise(found))
    assert (found[0].low, found[-1].high) == (min(distances), max(distances))
    for b in found:
        assert b.damage.value == pytest.approx(b.before.value - b.after.value)


def test_neighbour_damage_falls_with_distance_when_the_edit_hurts_the_near():
    d = np.linspace(0, 1, 400)
    after = np.random.default_rng(3).random(400) < d
    damage = [b.damage for b in neighbour_damage(d, np.ones(400, dtype=bool), after)]
    assert [e.value for e in damage] == sorted((e.value for e in damage), reverse=True)
    assert damage[0].low > damage[-1].high


def test_neighbour_damage_with_equal_distances():
    found = neighbour_damage([0.5] * 6, [True] * 6, [True] * 3 + [False] * 3, bins=3)
    assert [(b.low, b.high, b.after.value) for b in found] == [(0.5, 0.5, 0.5)]
    with pytest.raises(ValueError, match="two names"):
        neighbour_damage([0.1, 0.2, 0.3], [True] * 3, [True] * 3, bins=2)
    with pytest.raises(ValueError, match="finite"):
        neighbour_damage([0.1, np.nan], [True] * 2, [True] * 2, bins=1)
    with pytest.raises(ValueError, match=r"all must be"):
        neighbour_damage([0.1, 0.2], [True] * 2, [True] * 3, bins=1)
