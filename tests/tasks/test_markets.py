"""Which market and encoder a parameter means."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agents.fitting import default_encoder
from agents.market import SAMPLE_FOLDER
from memory.errors import EncoderError, MarketDataError
from memory.roots import PathOutsideRootsError
from memory.settings import Settings
from tasks.markets import encoder_folder, open_encoder, open_market


def test_a_sample_is_named_by_its_exchange() -> None:
    assert open_market("coinbase", ["BTC-USD"]).product_ids == ("BTC-USD",)


@pytest.fixture
def candles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of candles, beside which a home lies that flows may read."""
    monkeypatch.setenv("COINSWARM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("COINSWARM_DATA_ROOTS", raising=False)
    folder = tmp_path / "candles"
    folder.mkdir()
    shutil.copy(SAMPLE_FOLDER / "coinbase_LTC-USD_1m.parquet", folder)
    return folder


def test_a_path_is_read_as_candle_files(candles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COINSWARM_DATA_ROOTS", str(candles))
    for path in (candles, candles / "coinbase_LTC-USD_1m.parquet", candles / "coinbase_*_1m.parquet"):
        assert open_market(str(path)).product_ids == ("LTC-USD",)


def test_a_path_that_no_setting_names_is_refused(candles: Path) -> None:
    for path in (candles, candles / "*.parquet", candles.parent / "home" / ".." / "candles"):
        with pytest.raises(PathOutsideRootsError, match="the market"):
            open_market(str(path))


def test_a_link_that_a_glob_finds_is_followed_before_it_is_read(candles: Path) -> None:
    home = candles.parent / "home"
    home.mkdir()
    (home / "coinbase_LTC-USD_1m.parquet").symlink_to(candles / "coinbase_LTC-USD_1m.parquet")
    with pytest.raises(PathOutsideRootsError, match="the market"):
        open_market(str(home / "*.parquet"))


def test_an_encoder_elsewhere_is_refused(candles: Path) -> None:
    default_encoder("coinbase").save(candles / "mine.json")
    home = candles.parent / "home"
    home.mkdir()
    for encoder in (str(candles / "mine.json"), f"{home}/encoders/../../candles/mine.json"):
        (home / "encoders").mkdir(exist_ok=True)
        with pytest.raises(PathOutsideRootsError, match="the encoder"):
            open_encoder(encoder, "binance", Settings())


def test_history_without_a_folder_is_refused_with_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COINSWARM_HISTORY", raising=False)
    with pytest.raises(MarketDataError, match="COINSWARM_HISTORY"):
        open_market("history:bitfinex")


def test_an_unknown_market_is_refused() -> None:
    with pytest.raises(MarketDataError, match="nowhere"):
        open_market("nowhere")


def test_each_sample_has_its_own_encoder() -> None:
    assert open_encoder(None, "coinbase", Settings()).id_ == default_encoder("coinbase").id_
    assert open_encoder(None, "/some/path", Settings()).id_ == default_encoder("binance").id_


def test_an_encoder_is_found_by_id_in_the_home_and_by_file(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    fitted = default_encoder("coinbase")
    encoder_folder(settings).mkdir()
    file = encoder_folder(settings) / "mine.json"
    fitted.save(file)
    assert open_encoder("mine", "binance", settings).id_ == fitted.id_
    assert open_encoder(str(file), "binance", settings).id_ == fitted.id_
    assert open_encoder(fitted.id_, "binance", settings).id_ == fitted.id_


def test_an_unknown_encoder_is_refused_with_the_command_that_fits_one(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="fit-encoder"):
        open_encoder("nobody", "binance", Settings(home=tmp_path))
