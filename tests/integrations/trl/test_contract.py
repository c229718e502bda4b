"""The private parts of TRL that the adapter rests on: a move is named when a trainer is built."""

from __future__ import annotations

import pytest
from trl import GRPOTrainer

from erclip.errors import UserError
from erclip.integrations.trl import ALLOW, check_version
from erclip.integrations.trl import contract as adapter
from erclip.integrations.trl.contract import HOOKS, check_contract, moved_parts


def test_nothing_has_moved():
    assert list(moved_parts(GRPOTrainer)) == []


@pytest.mark.parametrize("name", HOOKS)
def test_a_renamed_method_is_named_when_a_trainer_is_built(make, monkeypatch, name):
    for base in GRPOTrainer.__mro__:
        if name in vars(base):
            monkeypatch.delattr(base, name)
    with pytest.raises(UserError, match=rf"TRL 1\.\S+ .*GRPOTrainer\.{name} is gone; pip install"):
        make()


@pytest.mark.parametrize("name", HOOKS)
def test_other_parameters_are_named(name):
    def moved(self, something_else):
        """Takes what it likes."""

    trainer = type("Moved", (GRPOTrainer,), {name: moved})
    with pytest.raises(UserError, match=rf"{name} takes self, something_else"):
        check_contract(trainer, "2.0.0")


def test_a_body_without_a_hook_is_named():
    class Moved(GRPOTrainer):
        def _prepare_inputs(self, generation_batch):
            return self._generate(generation_batch)

    with pytest.raises(
        UserError,
        match=r"_prepare_inputs no longer mentions _buffered_inputs, _generate_and_score_compl",
    ):
        check_contract(Moved, "2.0.0")


def test_an_attribute_that_is_no_longer_set_is_named(monkeypatch):
    monkeypatch.setattr(adapter, "ATTRIBUTES", adapter.ATTRIBUTES | {"_brand_new"})
    with pytest.raises(UserError, match="constructor no longer sets _brand_new"):
        check_contract(GRPOTrainer, "2.0.0")


def test_a_loss_that_reads_a_new_setting_is_named(monkeypatch):
    monkeypatch.setattr(adapter, "LOSS_READS", adapter.LOSS_READS - {"delta"})
    with pytest.raises(UserError, match="_compute_loss now reads delta"):
        check_contract(GRPOTrainer, "2.0.0")


def test_a_trl_without_its_source_is_refused(monkeypatch):
    def no_source(method):
        raise OSError("could not get source code")

    monkeypatch.setattr(adapter.inspect, "getsource", no_source)
    with pytest.raises(UserError, match="its source is not there to be read"):
        check_contract(GRPOTrainer, "2.0.0")


@pytest.mark.parametrize("version", ["1.9.2", "1.15.0", "1.15.3"])
def test_a_version_that_is_known_to_fail_is_refused(version, monkeypatch):
    monkeypatch.setenv(ALLOW, version)
    with pytest.raises(ImportError, match=rf"TRL {version} is not supported, only >=1.10.*trl\]'$"):
        check_version(version)


@pytest.mark.parametrize("version", ["1.17.0", "1.17.0.dev0", "2.0.0"])
def test_a_newer_version_is_let_in_by_name_alone(version, monkeypatch):
    refusal = rf"TRL {version} is not supported.*or set {ALLOW}={version} to try it$"
    with pytest.raises(ImportError, match=refusal):
        check_version(version)
    monkeypatch.setenv(ALLOW, "1.99.0")
    with pytest.raises(ImportError, match=refusal):
        check_version(version)
    monkeypatch.setenv(ALLOW, version)
    check_version(version)


@pytest.mark.parametrize("version", ["1.10.0", "1.14.2", "1.16.0", "1.16.3"])
def test_a_supported_version_passes(version):
    check_version(version)


def test_a_missing_trl_names_the_extra():
    with pytest.raises(ImportError, match=r"pip install 'erclip\[trl\]'"):
        check_version(None)
