import pytest

from dflare import fitness, selection
from dflare.errors import InputError
from dflare.mutations import MUTATIONS, average_blur, median_blur
from dflare.references import References
from dflare.released import RELEASED
from dflare.search import Ending, Search
from dflare.strategies import STRATEGIES, make_kernel


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_finds_triggers_of_the_toy_pair(strategy, toy_pair, toy_gradients, noise_seeds):
    references = References.ask(toy_pair(), noise_seeds(16, high=256, seed=1).images)
    kernel = make_kernel(strategy, references=references, gradients=toy_gradients)
    search = Search(kernel, toy_pair(), toy_pair(), seed=0, max_queries=40, batch_size=32)
    endings = {ended.ending: len(ended.chains) for ended in search.run([noise_seeds(32, high=250)])}
    assert endings.get(Ending.deviated, 0) > 0


def test_the_ablations_of_dflare_change_one_part_each():
    published = make_kernel("dflare")
    for name, part in (("no-novelty", "fitness"), ("no-selection", "select")):
        ablation = make_kernel(name)
        assert getattr(ablation, part) is not getattr(published, part)
        for other in {"fitness", "select", "accept", "first_bar", "mutations"} - {part}:
            assert getattr(ablation, other) == getattr(published, other)


def test_the_released_code_has_its_own_mutations_and_parts():
    kernel = make_kernel("dflare-released")
    assert kernel.mutations == list(RELEASED.values())
    assert (kernel.select, kernel.accept) == (selection.forgetful, fitness.changed)
    assert make_kernel("dflare-released", ["published"]).mutations == list(MUTATIONS.values())


def test_a_kernel_keeps_the_order_of_its_mutations():
    assert make_kernel("dflare", ["median_blur", "average_blur"]).mutations == [median_blur, average_blur]
    assert make_kernel("dflare").mutations == list(MUTATIONS.values())


def test_an_unknown_strategy_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match=f"search.strategy must be one of {', '.join(STRATEGIES)}, got 'dflair'"):
        make_kernel("dflair")


@pytest.mark.parametrize(("names", "came"), [(["median_blur", "medium_blur"], "'medium_blur'"), ([], "none")])
def test_unknown_mutations_are_answered_with_the_known_ones(names, came):
    with pytest.raises(InputError, match=f"search.mutations must be some of published, .*median_blur, .*got {came}"):
        make_kernel("dflare", names)
