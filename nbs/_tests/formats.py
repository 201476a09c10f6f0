"""Writers of every form in which bars are met, from one known truth: those that must be read right, and those that must be refused."""
import gzip
import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

PRICES = ["open", "high", "low", "close"]
OHLCV = [*PRICES, "volume"]
NY, CHICAGO = "America/New_York", "America/Chicago"


@dataclass(frozen=True)
class Form:
    """One form of a source. `write(truth, folder)` returns the path to read, and what must come out where that is not the truth itself."""
    name: str
    write: Callable[[pd.DataFrame, Path], Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    guessed: bool = False          # inspect finds the profile without being told
    error: str = ""                # of a form that must be refused: a pattern its message must fit
    tolerance: float = 0.0         # relative, of prices that the form does not hold exactly
    clock: str = "truth"           # truth: the clock is told or proved; open: inspect cannot prove it; none: inspect asks for the zone


READ: dict[str, Form] = {}
REFUSED: dict[str, Form] = {}


def readable(name, guessed=False, tolerance=0.0, clock="truth", **settings):
    """Registers a writer whose file must be read right. settings: dotted, __ for a dot; those of a profile of one's own begin with own__."""
    return lambda write: READ.setdefault(name, Form(name, write, dotted(settings), guessed, "", tolerance, clock)).write


def refused(name, error, **settings):
    """Registers a writer whose file must be refused with a message that fits `error`."""
    return lambda write: REFUSED.setdefault(name, Form(name, write, dotted(settings), error=error)).write


def dotted(settings):
    out = {k.replace("__", "."): v for k, v in settings.items()}
    own = {f"profile.own.{k.removeprefix('own.')}": out.pop(k) for k in list(out) if k.startswith("own.")}
    return out | own | ({"data.profile": "own"} if own else {})


# ---- pieces

def stamps(truth: pd.DataFrame, form: str = "%Y-%m-%d %H:%M:%S", zone: str = "UTC", shift: int = 0) -> list[str]:
    """The truth's stamps as text; shift: minutes added (1: stamped at the end of the bar)."""
    return (truth["datetime"] + pd.Timedelta(minutes=shift)).dt.tz_convert(zone).dt.strftime(form).tolist()


def numbers(truth: pd.DataFrame, decimal: str = ".", places: int = 2) -> dict[str, list[str]]:
    cells = {c: [f"{v:.{places}f}".replace(".", decimal) for v in truth[c]] for c in PRICES}
    return cells | {"volume": [f"{v:.0f}" for v in truth["volume"]]}


def lines(columns: Sequence[Sequence[str]], separator: str = ",") -> list[str]:
    return [separator.join(row) for row in zip(*columns)]


def csv(truth, time=None, separator=",", header="datetime,open,high,low,close,volume", decimal=".", places=2) -> str:
    """The usual table; `time`: the text of its stamps, one or two columns."""
    time = [stamps(truth, "%Y-%m-%dT%H:%M:%SZ")] if time is None else time if isinstance(time[0], list) else [time]
    rows = lines([*time, *numbers(truth, decimal, places).values()], separator)
    return "\n".join([header.replace(",", separator), *rows] if header else rows) + "\n"


def put(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def archive(folder: Path, name: str, members: Mapping[str, str]) -> Path:
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as z:
        for member, content in members.items(): z.writestr(member, content)
    return folder / name


def days(truth: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {day: part for day, part in truth.groupby(truth["datetime"].dt.strftime("%Y-%m-%d"))}


def saved(truth: pd.DataFrame, folder: Path, **kwargs) -> Path:
    truth.to_parquet(folder / "MES.parquet", **kwargs)
    return folder / "MES.parquet"


def of_a_day(write: Callable) -> Callable:
    """The writer of the first day alone: what is slow to write and read."""
    return lambda truth, folder: (write(truth[:1400], folder), truth[:1400])


def continuous(start: str, minutes: int, step: int = 1) -> pd.DataFrame:
    """Bars of a market that never closes."""
    k = np.arange(minutes)
    open_ = 100 + k * 0.25
    return pd.DataFrame({"datetime": pd.date_range(start, periods=minutes, freq=f"{step}min", tz="UTC").as_unit("ns"), "open": open_, "high": open_ + 0.5,
                         "low": open_ - 0.25, "close": open_ + 0.25, "volume": 10.0 + k % 7})


# ---- separators, containers, encodings

for _name, _sep in (("comma", ","), ("semicolon", ";"), ("tab", "\t"), ("pipe", "|")):
    readable(_name)(lambda t, d, sep=_sep: put(d, "MES.csv", csv(t, separator=sep)))
readable("blanks")(lambda t, d: put(d, "MES.txt", "\n".join(" ".join(c.rjust(22) for c in row.split(",")) for row in csv(t).splitlines())))
readable("blanks between date and time", own__names="date, time, open, high, low, close, volume")(lambda t, d: put(d, "MES.txt", csv(t, [stamps(t, "%Y-%m-%d"), stamps(t, "%H:%M:%S")], separator=" ", header="")))
readable("declared separator", own__separator="^")(lambda t, d: put(d, "MES.csv", csv(t, separator="^")))
readable("txt")(lambda t, d: put(d, "MES.txt", csv(t)))
readable("gzip")(lambda t, d: put(d, "MES.csv.gz", gzip.compress(csv(t).encode())))
readable("gzip in members")(lambda t, d: put(d, "MES.csv.gz", b"".join(gzip.compress(part.encode()) for part in (csv(t[:3000]), csv(t[3000:], header="")))))
readable("zip of one")(lambda t, d: archive(d, "MES.zip", {"MES.csv": csv(t), "readme.md": "no bars", "__MACOSX/._MES.csv": "\0"}))
readable("zip of days")(lambda t, d: archive(d, "MES.zip", {f"MES_{day}.csv": csv(part) for day, part in days(t).items()}))
readable("zip of gzip")(lambda t, d: archive(d, "MES.zip", {"deep/MES.csv.gz": gzip.compress(csv(t).encode())}))
readable("crlf")(lambda t, d: put(d, "MES.csv", csv(t).replace("\n", "\r\n")))
readable("cr")(lambda t, d: put(d, "MES.csv", csv(t).replace("\n", "\r")))
readable("no last line end")(lambda t, d: put(d, "MES.csv", csv(t).rstrip("\n")))
readable("byte order mark")(lambda t, d: put(d, "MES.csv", b"\xef\xbb\xbf" + csv(t).encode()))
readable("utf-16 le with mark")(lambda t, d: put(d, "MES.csv", b"\xff\xfe" + csv(t).encode("utf-16-le")))
readable("utf-16 be with mark")(lambda t, d: put(d, "MES.csv", b"\xfe\xff" + csv(t).encode("utf-16-be")))
readable("utf-16 declared", own__encoding="utf-16-le")(lambda t, d: put(d, "MES.csv", csv(t).encode("utf-16-le")))
readable("latin-1 declared", own__encoding="latin-1")(lambda t, d: put(d, "MES.csv", ("# Börse, 100 % geprüft\n" + csv(t)).encode("latin-1")))
readable("quotes")(lambda t, d: put(d, "MES.csv", "\n".join(",".join(f'"{c}"' for c in row.split(",")) for row in csv(t).splitlines())))
readable("blank lines")(lambda t, d: put(d, "MES.csv", "\n\n" + csv(t).replace("\n", "\n\n")))
readable("control z at the end")(lambda t, d: put(d, "MES.csv", csv(t) + "\x1a"))
readable("Excel's line of the separator")(lambda t, d: put(d, "MES.csv", "sep=;\n" + csv(t, separator=";")))
readable("suffix in capitals")(lambda t, d: put(d, "MES.CSV.GZ", gzip.compress(csv(t).encode())))


# ---- folders

@readable("folder of days")
def _(t, d):
    for day, part in days(t).items(): put(d, f"bars/{day[:7]}/MES_{day}.csv", csv(part))
    return d / "bars"


@readable("folder of months")
def _(t, d):
    winter = t[t["datetime"] < "2024-03-09"]
    whole = pd.concat([winter.assign(datetime=winter["datetime"] - pd.Timedelta(days=28)), t], ignore_index=True)
    for month, part in whole.groupby(whole["datetime"].dt.strftime("%Y-%m")): put(d, f"bars/MES_{month}.csv", csv(part))
    return d / "bars", whole


@readable("folder of days that overlap")
def _(t, d):
    for k, start in enumerate(range(0, len(t), 2000)): put(d, f"bars/part{k}.csv", csv(t[max(start - 50, 0):start + 2000]))
    return d / "bars"


@readable("folder with a day of a header alone")
def _(t, d):
    for day, part in {**days(t), "2024-03-09": t[:0]}.items(): put(d, f"bars/MES_{day}.csv", csv(part))
    return d / "bars"


@readable("folder of days that contradict one another", data__max_bad_share=0.05)
def _(t, d):
    put(d, "bars/a.csv", csv(t[:4000]))
    put(d, "bars/b.csv", csv(t[3990:].assign(close=lambda x: np.where(x.index < 3995, x["low"], x["close"]), open=lambda x: x["low"])[lambda x: x.index < 4000]))
    put(d, "bars/c.csv", csv(t[4000:]))
    same = t[3990:4000]["open"].eq(t[3990:4000]["low"]) & ((t[3990:4000].index >= 3995) | t[3990:4000]["close"].eq(t[3990:4000]["low"]))
    return d / "bars", t.drop(index=same.index[~same]).reset_index(drop=True)


@readable("folder of mixed kinds")
def _(t, d):
    put(d, "bars/1.csv", csv(t[:1000]))
    put(d, "bars/2.csv.gz", gzip.compress(csv(t[1000:2000]).encode()))
    t[2000:].to_parquet(d / "bars" / "3.parquet", index=False)
    put(d, "bars/notes.md", "hello")
    return d / "bars"


# ---- parquet and JSON

readable("parquet, time as a column")(lambda t, d: saved(t, d, index=False))
readable("parquet, time as the index")(lambda t, d: saved(t.set_index("datetime"), d))
readable("parquet, index without a name")(lambda t, d: saved(t.set_index("datetime").rename_axis(None), d))
readable("parquet, naive UTC")(lambda t, d: saved(t.assign(datetime=t["datetime"].dt.tz_localize(None)), d))
readable("parquet, naive Chicago", own__timezone=CHICAGO)(lambda t, d: saved(t.assign(datetime=t["datetime"].dt.tz_convert(CHICAGO).dt.tz_localize(None)), d))
readable("parquet, zone of New York")(lambda t, d: saved(t.assign(datetime=t["datetime"].dt.tz_convert(NY)), d))
readable("parquet, epoch ns")(lambda t, d: saved(t.assign(datetime=t["datetime"].astype("int64")), d))
readable("parquet, text")(lambda t, d: saved(t.assign(datetime=stamps(t)).astype("str"), d))
readable("parquet, float32 and int32")(lambda t, d: saved(t.astype({c: "float32" for c in PRICES} | {"volume": "int32"}), d))
readable("parquet, capital names")(lambda t, d: saved(t.rename(columns=str.capitalize).set_index("Datetime"), d))
readable("parquet, texts in dictionaries and bytes")(lambda t, d: pq.write_table(pa.table({"datetime": pa.array(stamps(t)).dictionary_encode(), **{
    c: pa.array([str(v) for v in t[c]], pa.binary() if c == "low" else pa.large_string()) for c in OHLCV}}), d / "MES.parquet") or d / "MES.parquet")
readable("parquet, twins that do not matter")(lambda t, d: pq.write_table(pa.table([t["datetime"], *(t[c] for c in OHLCV), t["close"], t["open"]], names=["datetime", *OHLCV, "x", "x"]), d / "MES.parquet")
                                              or d / "MES.parquet")
readable("parquet, yahoo", data__profile="yahoo")(lambda t, d: saved(
    t.set_index("datetime").set_axis(pd.MultiIndex.from_product([[c.capitalize() for c in OHLCV], ["ES=F"]], names=["Price", "Ticker"]), axis=1), d))


@readable("parquet, odd types")
def _(t, d):
    import decimal
    price = pa.array([decimal.Decimal(f"{v:.2f}") for v in t["open"]], pa.decimal128(12, 2))
    table = pa.table({"datetime": pa.array(t["datetime"].astype("int64") // 1000, pa.int64()).cast(pa.timestamp("us", "UTC")), "open": price, "high": t["high"], "low": t["low"],
                      "close": t["close"], "volume": pa.array(t["volume"].astype("int64"), pa.uint64()), "venue": pa.array(["CME"] * len(t)).dictionary_encode(),
                      "legs": pa.array([[1, 2]] * len(t))})
    pq.write_table(table, d / "MES.parquet")
    return d / "MES.parquet"


@readable("parquet, date and time apart")
def _(t, d):
    local = t["datetime"].dt.tz_localize(None)
    pq.write_table(pa.table({"date": pa.array(local.dt.date), "time": pa.array(local.dt.time), **{c: t[c] for c in OHLCV}}), d / "MES.parquet")
    return d / "MES.parquet"


def records(truth: pd.DataFrame) -> list[dict]:
    return [{"datetime": s, **dict(zip(OHLCV, row))} for s, row in zip(stamps(truth, "%Y-%m-%dT%H:%M:%SZ"), truth[OHLCV].to_numpy().tolist())]


readable("json array")(lambda t, d: put(d, "MES.json", json.dumps(records(t), indent=1)))
readable("json lines")(lambda t, d: put(d, "MES.jsonl", "\n".join(map(json.dumps, records(t))) + "\n"))
readable("json array, gzip", clock="open")(of_a_day(lambda t, d: put(d, "MES.json.gz", gzip.compress(json.dumps(records(t)).encode()))))
readable("json under a key", clock="open")(of_a_day(lambda t, d: put(d, "MES.json", json.dumps({"symbol": "MES", "data": records(t)}))))
readable("json arrays in an array", clock="open", data__profile="binance")(of_a_day(lambda t, d: put(d, "MES.json", json.dumps(
    [[int(ms), *(f"{v:.2f}" for v in row), int(ms) + 59_999, "0.0", 10, "0", "0", "0"] for ms, row in zip(t["datetime"].astype("int64") // 10**6, t[OHLCV].to_numpy())]))))
readable("json of milliseconds", clock="open")(of_a_day(lambda t, d: put(d, "MES.json", t.assign(datetime=t["datetime"].astype("int64") // 10**6).to_json(orient="records"))))
readable("json with prices in an object", clock="open")(of_a_day(lambda t, d: put(d, "MES.jsonl", "\n".join(json.dumps({"time": s, "volume": v, "mid": dict(zip("ohlc", map(str, bar)))})
                                                                                       for s, v, bar in zip(stamps(t), t["volume"], t[PRICES].to_numpy().tolist())))))


# ---- headers

for _k, _header in enumerate(("Date,Open,High,Low,Close,Volume", "Gmt time,Open,High,Low,Close,Volume", "open_time,o,h,l,c,v", "ts_event,open,high,low,close,volume",
                              "timestamp,Open,High,Low,Last,Vol", "t,o,h,l,c,v", "Time,First,Max,Min,Settle,totalVolume", "Date/Time,Open Price,Hi,Lo,Close-Price,Vol.", " DateTime , OPEN , HIGH , LOW , CLOSE , TICK_VOLUME ")):
    readable(f"header {_header}")(lambda t, d, header=_header: put(d, "MES.csv", csv(t, header=header)))
readable("date and time in two columns")(lambda t, d: put(d, "MES.csv", csv(t, [stamps(t, "%Y-%m-%d"), stamps(t, "%H:%M")], header="Date,Time,Open,High,Low,Close,Volume")))
readable("date and time as digits")(lambda t, d: put(d, "MES.csv", csv(t, [stamps(t, "%Y%m%d"), stamps(t, "%H%M%S")], header="date,time,open,high,low,close,volume")))
readable("time of 3 and 4 digits")(lambda t, d: put(d, "MES.csv", csv(t, [stamps(t, "%Y%m%d"), [str(int(x)) for x in stamps(t, "%H%M")]], header="date,time,open,high,low,close,volume")))
readable("any order of columns")(lambda t, d: put(d, "MES.csv", "\n".join(",".join(r.split(",")[::-1]) for r in csv(t).splitlines())))
readable("own names", own__columns__datetime="wann", own__columns__open="auf", own__columns__high="hoch", own__columns__low="tief", own__columns__close="zu",
         own__columns__volume="none")(lambda t, d: (put(d, "MES.csv", csv(t, header="wann,auf,hoch,tief,zu,volume")), t.assign(volume=np.nan)))
readable("names in the settings", data__columns__close="settled")(lambda t, d: put(d, "MES.csv", csv(t, header="datetime,open,high,low,settled,volume")))
readable("no header, declared names", own__names=["datetime", *OHLCV], own__header=False)(lambda t, d: put(d, "MES.csv", csv(t, header="")))
readable("header replaced by declared names", own__names=["datetime", *OHLCV], own__header=True)(lambda t, d: put(d, "MES.csv", csv(t, header="a,b,c,d,e,f")))
readable("comment lines")(lambda t, d: put(d, "MES.csv", "# made by hand\n#\n" + csv(t).replace("\n", "\n# note, with, many, commas, in, it\n", 3) + "# end\n"))
readable("header in a comment")(lambda t, d: put(d, "MES.csv", "# datetime,open,high,low,close,volume\n" + csv(t, header="")))
readable("comments of another sign", own__comment="//")(lambda t, d: put(d, "MES.csv", "// made by hand\n" + csv(t)))
readable("lines before the header", own__skip_rows=3)(lambda t, d: put(d, "MES.csv", "Report 7\n1,2,3,4,5,6\n\n" + csv(t)))
readable("a title above the header")(lambda t, d: put(d, "MES.csv", "Micro E-mini S&P 500\n" + csv(t)))
readable("second row of units")(lambda t, d: put(d, "MES.csv", csv(t).replace("\n", "\nUTC,points,points,points,points,lots\n", 1)))
readable("extra columns")(lambda t, d: put(d, "MES.csv", "\n".join(f"{r},{r.split(',')[4]},x,,{'wap' if not k else 5000}" for k, r in enumerate(csv(t).splitlines()))
                                             .replace("close,x,", "Adj Close,comment,", 1)))
readable("trailing separator")(lambda t, d: put(d, "MES.csv", csv(t).replace("\n", ",\n")))
readable("duplicate columns that do not matter")(lambda t, d: put(d, "MES.csv", "\n".join(f"{r},{'flag,flag' if not k else '1,0'}" for k, r in enumerate(csv(t).splitlines()))))
readable("no volume", data__columns__volume="none")(lambda t, d: (put(d, "MES.csv", "\n".join(r.rsplit(",", 1)[0] for r in csv(t).splitlines())), t.assign(volume=np.nan)))
readable("symbols in a column")(lambda t, d: put(d, "MES.csv", "\n".join(x for k, r in enumerate(csv(t).splitlines()) for x in ([r + ",symbol"] if not k else [r + ",MES", r.replace(":00Z,", ":00Z,9") + ",NQ"]))))
readable("whole numbers as 1e3 and +")(lambda t, d: put(d, "MES.csv", csv(t).replace(",5", ",+5").replace(",10\n", ",1e1\n")))
readable("index without a name")(lambda t, d: (t.set_index("datetime").rename_axis(None).to_csv(d / "MES.csv"), d / "MES.csv")[1])
readable("rows counted in a column without a name")(lambda t, d: (t.to_csv(d / "MES.csv"), d / "MES.csv")[1])
readable("volume empty throughout")(lambda t, d: (put(d, "MES.csv", "\n".join(r if r[0] == "d" else r.rsplit(",", 1)[0] + "," for r in csv(t).splitlines())), t.assign(volume=np.nan)))


# ---- times

readable("ISO with Z and fractions")(lambda t, d: put(d, "MES.csv", csv(t, stamps(t, "%Y-%m-%dT%H:%M:%S.000000000Z"))))
readable("offsets that change")(lambda t, d: put(d, "MES.csv", csv(t, [x.isoformat() for x in t["datetime"].dt.tz_convert(NY)])))
readable("offsets without a colon")(lambda t, d: put(d, "MES.csv", csv(t, stamps(t, "%Y-%m-%d %H:%M:%S%z", CHICAGO))))
readable("GMT and an offset")(lambda t, d: put(d, "MES.csv", csv(t, stamps(t, "%d.%m.%Y %H:%M:%S.000 GMT%z", NY), header="Local time,Open,High,Low,Close,Volume")))
readable("naive New York", own__timezone=NY)(lambda t, d: put(d, "MES.csv", csv(t, stamps(t, zone=NY))))
readable("naive, zone in the settings", data__timezone="Europe/Athens")(lambda t, d: put(d, "MES.csv", csv(t, stamps(t, zone="Europe/Athens"))))
readable("naive UTC")(lambda t, d: put(d, "MES.csv", csv(t, stamps(t))))
readable("end stamps", data__stamping="end")(lambda t, d: put(d, "MES.csv", csv(t, stamps(t, shift=1))))
readable("24:00", own__stamping="end")(lambda t, d: put(d, "MES.csv", csv(t, [
    (x - pd.Timedelta(days=1)).strftime("%Y-%m-%d 24:00:00") if (x.hour, x.minute) == (0, 0) else x.strftime("%Y-%m-%d %H:%M:%S") for x in t["datetime"] + pd.Timedelta(minutes=1)])))
readable("AM and PM", own__timezone=NY)(lambda t, d: put(d, "MES.csv", csv(t, stamps(t, "%m/%d/%Y %I:%M:%S %p", NY))))
readable("am and pm without seconds")(lambda t, d: put(d, "MES.csv", csv(t, [x.lower() for x in stamps(t, "%Y-%m-%d %I:%M %p")])))
readable("20180101 180100", own__timezone=CHICAGO)(lambda t, d: put(d, "MES.csv", csv(t, stamps(t, "%Y%m%d %H%M%S", CHICAGO))))
readable("20180101180100")(lambda t, d: put(d, "MES.csv", csv(t, stamps(t, "%Y%m%d%H%M%S"))))
readable("2026.02.01 18:00")(lambda t, d: put(d, "MES.csv", csv(t, stamps(t, "%Y.%m.%d %H:%M"))))
readable("m/d/Y, decidable")(lambda t, d: put(d, "MES.csv", csv(t, stamps(t, "%m/%d/%Y %H:%M"))))
readable("d/m/Y, decidable")(lambda t, d: put(d, "MES.csv", csv(t, stamps(t, "%d/%m/%Y %H:%M"))))
readable("d.m.Y, decidable")(lambda t, d: put(d, "MES.csv", csv(t, stamps(t, "%d.%m.%Y %H:%M:%S"))))
readable("m/d/Y, declared", own__stamps="mdy")(lambda t, d: (put(d, "MES.csv", csv(before(t, 13), stamps(before(t, 13), "%m/%d/%Y %H:%M"))), before(t, 13)))
readable("d/m/Y, declared", own__stamps="dmy")(lambda t, d: (put(d, "MES.csv", csv(before(t, 13), stamps(before(t, 13), "%d/%m/%Y %H:%M"))), before(t, 13)))
readable("a form of one's own", own__stamps="%d-%b-%Y %H:%M")(lambda t, d: put(d, "MES.csv", csv(t, stamps(t, "%d-%b-%Y %H:%M"))))
for _unit, _ns in (("s", 10**9), ("ms", 10**6), ("us", 10**3), ("ns", 1)):
    readable(f"epoch {_unit}")(lambda t, d, ns=_ns: put(d, "MES.csv", csv(t, (t["datetime"].astype("int64") // ns).astype("str").tolist())))
readable("epoch s as 1709766000.0")(lambda t, d: put(d, "MES.csv", csv(t, [f"{x / 10**9:.1f}" for x in t["datetime"].astype("int64")])))
readable("decimal comma")(lambda t, d: put(d, "MES.csv", csv(t, separator=";", decimal=",")))
readable("decimal comma, three places", own__decimal=",")(lambda t, d: put(d, "MES.csv", csv(t, separator=";", decimal=",", places=3)))


def before(truth: pd.DataFrame, day: int) -> pd.DataFrame:
    return truth[truth["datetime"] < f"2024-03-{day:02d}"].reset_index(drop=True)


@readable("repeated hour told by the order", data__trust_clock=True, own__timezone=NY, clock="open")
def _(t, d):
    autumn = continuous("2024-11-03T02:00:00Z", 600)
    return put(d, "MES.csv", csv(autumn, stamps(autumn, zone=NY))), autumn


@readable("skipped hour left out", data__trust_clock=True, own__timezone=NY, clock="open")
def _(t, d):
    spring = continuous("2024-03-10T02:00:00Z", 600)
    return put(d, "MES.csv", csv(spring, stamps(spring, zone=NY))), spring


@readable("repeated hour told by offsets", data__trust_clock=True, clock="open")
def _(t, d):
    autumn = continuous("2024-11-03T02:00:00Z", 600)
    return put(d, "MES.csv", csv(autumn, [x.isoformat() for x in autumn["datetime"].dt.tz_convert(NY)])), autumn


# ---- profiles

readable("firstrate", guessed=True, data__profile="firstrate")(lambda t, d: put(d, "MES.txt", csv(t, stamps(t, zone=NY), header="")))
DATABENTO = "ts_event,rtype,publisher_id,instrument_id,open,high,low,close,volume,symbol"
scaled = lambda t: [[str(round(v * 10**9)) for v in t[c]] for c in PRICES]
readable("databento, raw", guessed=True, tolerance=1e-12, data__profile="databento")(lambda t, d: put(d, "MES.csv", "\n".join([DATABENTO, *lines(
    [t["datetime"].astype("int64").astype("str"), ["33"] * len(t), ["1"] * len(t), ["17077"] * len(t), *scaled(t), numbers(t)["volume"], ["MESH4"] * len(t)])])))
readable("databento, pretty", guessed=True, data__profile="databento")(lambda t, d: put(d, "MES.csv", "\n".join([DATABENTO, *lines(
    [stamps(t, "%Y-%m-%dT%H:%M:%S.000000000Z"), ["33"] * len(t), ["1"] * len(t), ["17077"] * len(t), *list(numbers(t, places=9).values()), ["MESH4"] * len(t)])])))
readable("databento, parquet", guessed=True, data__profile="databento")(lambda t, d: saved(
    t.rename(columns={"datetime": "ts_event"}).assign(rtype=33, instrument_id=17077, volume=t["volume"].astype("uint64"), symbol="MESH4").set_index("ts_event"), d))
readable("databento, json", clock="open", tolerance=1e-12, data__profile="databento")(of_a_day(lambda t, d: put(d, "MES.json", "\n".join(json.dumps(
    {"hd": {"ts_event": s, "rtype": 33, "publisher_id": 1, "instrument_id": 17077}, **dict(zip(PRICES, row)), "volume": v})
    for s, row, v in zip(t["datetime"].astype("int64").astype("str"), zip(*scaled(t)), numbers(t)["volume"])))))
readable("tradingview", guessed=True, data__profile="tradingview")(lambda t, d: put(d, "MES.csv", csv(t, (t["datetime"].astype("int64") // 10**9).astype("str").tolist(),
                                                                                              header="time,open,high,low,close,Volume")))
readable("tradingview, ISO", guessed=True, data__profile="tradingview")(lambda t, d: put(d, "MES.csv", csv(t, [x.isoformat() for x in t["datetime"].dt.tz_convert(CHICAGO)],
                                                                                                  header="time,open,high,low,close,Volume")))
readable("metatrader 4", guessed=True, clock="none", data__profile="metatrader", data__timezone="Europe/Athens")(lambda t, d: put(
    d, "MES.csv", csv(t, [stamps(t, "%Y.%m.%d", "Europe/Athens"), stamps(t, "%H:%M", "Europe/Athens")], header="")))
readable("metatrader 5", guessed=True, clock="none", data__profile="metatrader", data__timezone="Europe/Athens")(lambda t, d: put(d, "MES.csv", csv(
    t, [stamps(t, "%Y.%m.%d", "Europe/Athens"), stamps(t, "%H:%M:%S", "Europe/Athens")], "\t", "<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<TICKVOL>,<VOL>,<SPREAD>")
    .replace("\n", "\t0\t1\n").replace("<SPREAD>\t0\t1\n", "<SPREAD>\n")))
readable("ninjatrader", guessed=True, data__profile="ninjatrader")(lambda t, d: put(d, "MES 06-24.Last.txt", csv(t, stamps(t, "%Y%m%d %H%M%S", shift=1), ";", "")))
readable("ninjatrader, own zone", data__profile="ninjatrader", data__timezone=CHICAGO)(lambda t, d: put(
    d, "MES 06-24.Last.txt", csv(t, stamps(t, "%Y%m%d %H%M%S", CHICAGO, 1), ";", "")))


def klines(truth: pd.DataFrame, ns: int, header: bool) -> str:
    start = truth["datetime"].astype("int64") // ns
    rows = lines([start.astype("str"), *numbers(truth).values(), (start + 60 * 10**9 // ns - 1).astype("str"), *[["0"] * len(truth)] * 5])
    names = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
    return "\n".join([names, *rows] if header else rows)


readable("binance, ms", guessed=True, data__profile="binance")(lambda t, d: put(d, "MES-1m-2024-03.csv", klines(t, 10**6, False)))
readable("binance, us in a zip", guessed=True, data__profile="binance")(lambda t, d: archive(d, "MES-1m-2024-03.zip", {"MES-1m-2024-03.csv": klines(t, 10**3, True)}))


@readable("binance, ms and then us", guessed=True, data__profile="binance")
def _(t, d):
    put(d, "bars/MES-1m-2024-03-1.csv", klines(t[:4000], 10**6, False))
    put(d, "bars/MES-1m-2024-03-2.csv", klines(t[4000:], 10**3, False))
    return d / "bars"


readable("yahoo", guessed=True, data__profile="yahoo")(lambda t, d: put(d, "MES.csv", "Price,Close,High,Low,Open,Volume\nTicker,ES=F,ES=F,ES=F,ES=F,ES=F\nDatetime,,,,,\n" + "\n".join(
    lines([stamps(t, "%Y-%m-%d %H:%M:%S+00:00"), *(numbers(t)[c] for c in ("close", "high", "low", "open", "volume"))]))))


@readable("lean", guessed=True, data__profile="lean")
def _(t, d):
    (d / "bars").mkdir()
    for day, part in days(t).items():
        ms = ((part["datetime"].astype("int64") // 10**6) % 86_400_000).astype("str")
        name = day.replace("-", "")
        archive(d / "bars", f"{name}_trade.zip", {f"{name}_mes_minute_trade_202406_20240621.csv": "\n".join(lines([ms, *numbers(part).values()]))})
    return d / "bars"


readable("own profile on a base", own__base="ninjatrader", own__stamping="start", own__timezone=NY)(lambda t, d: put(
    d, "MES.txt", csv(t, stamps(t, "%Y%m%d %H%M%S", NY), ";", "")))
readable("a symbol's own profile", data__profile="lean", data__profiles__MES="firstrate", guessed=True)(lambda t, d: put(d, "MES.txt", csv(t, stamps(t, zone=NY), header="")))


# ---- contracts, trades, spans, repairs

def of_contracts(truth: pd.DataFrame, codes: tuple[str, str] = ("MESH4", "MESM4")) -> tuple[list[tuple], pd.DataFrame]:
    """(stamp, contract, bar) rows of two contracts and their spread: the next one trades more from the third session on, so that it leads from the fourth."""
    hours = truth["datetime"].dt.tz_convert(CHICAGO) + pd.Timedelta(hours=7)
    session = hours.dt.strftime("%Y%m%d").to_numpy()
    order = np.unique(session)
    later = session >= order[2]
    near = truth.assign(volume=np.where(later, 2.0, 1000.0))
    far = truth.assign(**{c: truth[c] + 50 for c in PRICES}, volume=np.where(later, 900.0, 3.0))
    spread = truth.assign(open=-50.0, high=-49.75, low=-50.25, close=-50.0, volume=1.0)[::10]
    rows = sorted(((s, code, *(f"{v:.2f}" for v in bar)) for code, f in ((codes[0], near), (codes[1], far), ("-".join(codes), spread))
                   for s, bar in zip(stamps(f, "%Y-%m-%dT%H:%M:%SZ"), f[OHLCV].to_numpy())), key=lambda r: r[:2])
    leads = session >= order[3]
    return rows, pd.concat([near[~leads], far[leads]]).sort_index()


def contract_csv(rows: Sequence[tuple], column: str = "contract") -> str:
    return "\n".join([f"datetime,{column},open,high,low,close,volume", *map(",".join, rows)]) + "\n"


@readable("contracts in a column")
def _(t, d):
    rows, front = of_contracts(t)
    return put(d, "MES.csv", contract_csv(rows)), front


@readable("contracts in a column, joined by differences", data__adjust="difference")
def _(t, d):
    rows, front = of_contracts(t, ("MES 03-24", "MES 06-24"))
    return put(d, "MES.csv", contract_csv(rows, "expiry")), t.assign(volume=front["volume"])


@readable("contracts one after the other")
def _(t, d):
    rows, front = of_contracts(t, ("202403", "202406"))
    return put(d, "MES.csv", contract_csv(sorted(rows, key=lambda r: r[1]), "symbol")), front


@readable("one contract of several", data__contract__MES="MESM4")
def _(t, d):
    rows, _front = of_contracts(t)
    return put(d, "MES.csv", contract_csv(rows)), t.assign(**{c: t[c] + 50 for c in PRICES}, volume=[float(r[6]) for r in rows if r[1] == "MESM4"])


@readable("zip of contract files")
def _(t, d):
    rows, front = of_contracts(t)
    return archive(d, "MES.zip", {f"{c}.csv": contract_csv([r for r in rows if r[1] == c]) for c in ("MESH4", "MESM4")}), front


@readable("zip of contract files without a column")
def _(t, d):
    rows, front = of_contracts(t)
    return archive(d, "MES.zip", {f"{c}.csv": "\n".join(["datetime,open,high,low,close,volume", *(",".join((r[0], *r[2:])) for r in rows if r[1] == c)]) for c in ("MESH4", "MESM4")}), front


def trades(truth: pd.DataFrame) -> list[tuple[int, float, float]]:
    """Four trades a bar, that make exactly it."""
    out = []
    for ns, o, h, l, c, v in zip(truth["datetime"].astype("int64"), *(truth[x] for x in OHLCV)):
        out += [(ns + k * 14_000_000_001, p, size) for k, (p, size) in enumerate(((o, v - 3 * (v // 4)), (h, v // 4), (l, v // 4), (c, v // 4)))]
    return out


readable("trades", clock="open")(lambda t, d: (put(d, "MES.csv", "ts_event,price,size\n" + "\n".join(
    f"{pd.Timestamp(s, tz='UTC').isoformat()},{p},{v:.0f}" for s, p, v in trades(t[:2000]))), t[:2000]))
readable("trades, ns", clock="open")(lambda t, d: (put(d, "MES.csv", "timestamp,last,qty,side\n" + "\n".join(f"{s},{p:.2f},{v:.0f},B" for s, p, v in trades(t))), t))


@readable("trades, five minutes", data__trade_minutes=5, clock="open")
def _(t, d):
    slots = t.groupby(t["datetime"].dt.floor("5min"))
    wanted = slots.agg(open=("open", "first"), high=("high", "max"), low=("low", "min"), close=("close", "last"), volume=("volume", "sum")).reset_index()
    return put(d, "MES.csv", "timestamp,price,size\n" + "\n".join(f"{s},{p:.2f},{v:.0f}" for s, p, v in trades(t))), wanted


@readable("start and end", data__start="2024-03-07T12:00:00Z", data__end="2024-03-12")
def _(t, d):
    inside = (t["datetime"] >= "2024-03-07T12:00:00Z") & (t["datetime"] < "2024-03-12")
    return put(d, "MES.csv", csv(t)), t[inside].reset_index(drop=True)


@readable("envelope", data__repair=["envelope"])
def _(t, d):
    odd = t.copy()
    odd.loc[100:110, "high"] = odd.loc[100:110, "low"]
    fixed = odd.assign(high=odd[PRICES].max(axis=1), low=odd[PRICES].min(axis=1))
    return put(d, "MES.csv", csv(odd)), fixed


@readable("bad rows within the share", data__max_bad_share=0.002)
def _(t, d):
    rows = csv(t).splitlines()
    rows[11], rows[21], rows[31] = "n/a", rows[20], rows[31].replace(",", ",-", 1)
    rows[41], rows[51], rows[61] = rows[41].replace("Z", "X"), rows[51] + ",7", rows[61][:30]
    return put(d, "MES.csv", "\n".join([*rows, "Total: 1"])), t.drop(index=[10, 20, 30, 40, 50, 60]).reset_index(drop=True)


# ---- what must be refused: the message names the file, and the line or row

refused("no such columns", r"column 'datetime' must be in the file, got a, b, c, d, e, f \(MES.csv\)")(lambda t, d: put(d, "MES.csv", csv(t, header="a,b,c,d,e,f")))
refused("no close", r"column 'close' must be in the file, got .*\(MES.csv\)")(lambda t, d: put(d, "MES.csv", csv(t, header="datetime,open,high,low,clothe,volume")))
refused("declared column that is missing", r"column 'settled' must be in the file", data__columns__close="settled")(lambda t, d: put(d, "MES.csv", csv(t)))
refused("unknown column declared", r"data.columns must name .* Is it close\?", data__columns__clsoe="x")(lambda t, d: put(d, "MES.csv", csv(t)))
refused("two candidate columns", r"column close must be one, got (close and Close|close#1 and close#2)")(lambda t, d: put(d, "MES.csv", csv(t, header="datetime,open,high,low,close,close")))
refused("twin columns", r"column close must be one, got close#1 and close#2 \(MES.csv\)")(lambda t, d: put(d, "MES.csv", "\n".join(f"{r},{r.split(',')[4]}" for r in csv(t).splitlines())))
refused("two times", r"column datetime must be one, got datetime and timestamp")(lambda t, d: put(d, "MES.csv", csv(t, [stamps(t), stamps(t, zone=NY)], header="datetime,timestamp,open,high,low,close,volume")))
refused("header only", r"must hold .*\(MES.csv")(lambda t, d: put(d, "MES.csv", csv(t[:0])))
refused("one bar", r"must hold at least 2 bars, got 1 \(MES.csv")(lambda t, d: put(d, "MES.csv", csv(t[:1])))
refused("no header, no names", r"a file without a header must have its 6 columns declared, got no names \(MES.csv, line 1")(lambda t, d: put(d, "MES.csv", csv(t, header="")))
refused("names for other columns", r"6 columns declared, got 5 names", own__names=["datetime", *PRICES])(lambda t, d: put(d, "MES.csv", csv(t, header="")))
refused("empty file", r"must hold rows, got an empty one \(MES.csv\)")(lambda t, d: put(d, "MES.csv", ""))
refused("blank file", r"must hold rows, got an empty one \(MES.csv\)")(lambda t, d: put(d, "MES.csv", " \n\n\n"))
refused("comments only", r"must hold rows, got comments")(lambda t, d: put(d, "MES.csv", "# a\n# b\n"))
refused("empty gzip", r"must hold rows, got an empty one \(MES.csv.gz\)")(lambda t, d: put(d, "MES.csv.gz", gzip.compress(b"")))
refused("zero bytes as gzip", r"\(MES.csv.gz")(lambda t, d: put(d, "MES.csv.gz", b""))
refused("empty zip", r"must hold a file that ends in")(lambda t, d: archive(d, "MES.zip", {}))
refused("zip without bars", r"must hold a file that ends in")(lambda t, d: archive(d, "MES.zip", {"readme.md": "x", "picture.png": "y"}))
refused("folder without bars", r"must hold a file that ends in")(lambda t, d: put(d, "bars/readme.md", "x").parent)
refused("web page", r"must be a table, got a web page \(MES.csv\)")(lambda t, d: put(d, "MES.csv", "<!DOCTYPE html>\n<html><body>404, not found</body></html>"))
refused("error in JSON", r"\(MES.json")(lambda t, d: put(d, "MES.json", '{"error": "limit reached", "code": 429}'))
refused("binary junk", r"(binary data|encoding).*\(MES.csv")(lambda t, d: put(d, "MES.csv", np.random.default_rng(0).bytes(50_000)))
refused("parquet named csv", r"must hold text, got a parquet file \(MES.csv\)")(lambda t, d: saved(t, d).rename(d / "MES.csv"))
refused("gzip named csv", r"must hold text, got gzip data \(MES.csv\)")(lambda t, d: put(d, "MES.csv", gzip.compress(csv(t).encode())))
refused("xlsx named csv", r"must hold text, got a zip archive")(lambda t, d: archive(d, "x.zip", {"xl/sheet.xml": "<x/>"}).rename(d / "MES.csv"))
refused("csv named gz", r"packed data must be intact.*\(MES.csv.gz\)")(lambda t, d: put(d, "MES.csv.gz", csv(t)))
refused("csv named parquet", r"a parquet file must be whole.*\(MES.parquet\)")(lambda t, d: put(d, "MES.parquet", csv(t)))
refused("csv named zip", r"a zip file must be an intact archive.*\(MES.zip\)")(lambda t, d: put(d, "MES.zip", csv(t)))
refused("csv named json", r"\(MES.json")(lambda t, d: put(d, "MES.json", csv(t)))
refused("foreign suffix", r"must end in .csv, .*got 'MES.xlsx'")(lambda t, d: put(d, "MES.xlsx", csv(t)))
refused("truncated gzip", r"a gzip file must be whole, got one that ends in the middle \(MES.csv.gz\)")(lambda t, d: put(d, "MES.csv.gz", gzip.compress(csv(t).encode())[:-20_000]))
refused("gzip without its end mark", r"a gzip file must be whole")(lambda t, d: put(d, "MES.csv.gz", gzip.compress(csv(t).encode())[:-4]))
refused("gzip with a wrong sum", r"packed data must be intact, got 'CRC")(lambda t, d: put(d, "MES.csv.gz", gzip.compress(csv(t).encode())[:-8] + b"\1\2\3\4" + gzip.compress(csv(t).encode())[-4:]))
refused("truncated zip", r"a zip file must be an intact archive.*\(MES.zip\)")(lambda t, d: put(d, "MES.zip", archive(d, "x.zip", {"MES.csv": csv(t)}).read_bytes()[:-300]))
refused("truncated parquet", r"a parquet file must be whole.*\(MES.parquet")(lambda t, d: put(d, "MES.parquet", saved(t, d).read_bytes()[:-3000]))
refused("truncated JSON", r"(closed|well formed).*\(MES.json")(lambda t, d: put(d, "MES.json", json.dumps(records(t))[:-500]))
refused("truncated JSON lines", r"well formed.*\(MES.jsonl, line 8\d\d\d")(lambda t, d: put(d, "MES.jsonl", "\n".join(map(json.dumps, records(t)))[:-50]))
refused("JSON by columns", r"\(MES.json")(lambda t, d: put(d, "MES.json", t.assign(datetime=stamps(t)).to_json(orient="columns")))
refused("JSON of bids and asks", r"column 'open' must be in the file, got time, volume, bid.o, .*ask.c \(MES.jsonl\)")(lambda t, d: put(d, "MES.jsonl", "\n".join(json.dumps(
    {"time": s, "volume": v, **{side: dict(zip("ohlc", bar)) for side in ("bid", "ask")}}) for s, v, bar in zip(stamps(t), t["volume"], t[PRICES].to_numpy().tolist()))))
refused("JSON named csv", r"must be a table, got JSON \(MES.csv\)")(lambda t, d: put(d, "MES.csv", json.dumps(records(t))))
refused("parquet with two of one name", r"column close must be one, got close#1 and close#2 \(MES.parquet\)")(lambda t, d: pq.write_table(pa.table(
    [t["datetime"], *(t[c] for c in OHLCV), t["close"] + 1], names=["datetime", *OHLCV, "close"]), d / "MES.parquet") or d / "MES.parquet")
refused("parquet, prices that are moments", r"'not a number' \(MES.parquet, row 1\)")(lambda t, d: saved(t.assign(open=t["datetime"]), d))
refused("parquet, prices in blocks of bytes", r"column 'open' must be in the file")(lambda t, d: pq.write_table(pa.table({**{c: t[c] for c in t}, "open": pa.array([b"5000"] * len(t), pa.binary(4))}), d / "MES.parquet")
                                             or d / "MES.parquet")
refused("parquet, volume that is true or false", r"'not a number' \(MES.parquet, row 1\)")(lambda t, d: saved(t.assign(volume=True), d))
refused("utf-16 undeclared", r"encoding utf-8, got bytes that look like utf-16-le \(MES.csv\)")(lambda t, d: put(d, "MES.csv", csv(t).encode("utf-16-le")))
refused("latin-1 undeclared", r"declared encoding.*\(MES.csv.*latin-1")(lambda t, d: put(d, "MES.csv", ("Börse\n" + csv(t)).encode("latin-1")))
refused("an encoding that does not exist", r"encoding must be one that Python knows, got 'utf-9'", own__encoding="utf-9")(lambda t, d: put(d, "MES.csv", csv(t)))


def flawed(truth, line: int = 100, put_in: str = "{stamp},{open},{high},{low},{close},{volume}", count: int = 1) -> str:
    """The usual table, with another text in `count` lines from `line` on; {open} stands for the cell."""
    rows = csv(truth).splitlines()
    for k in range(line - 1, line - 1 + count): rows[k] = put_in.format(**dict(zip(("stamp", *OHLCV), rows[k].split(","))), row=rows[k])
    return "\n".join(rows)


refused("corrupt member of a zip", r"must be .*\(MES.zip!MES.csv\)")(lambda t, d: put(d, "MES.zip", (lambda b: b[:20_000] + b"\0" * 50 + b[20_050:])(archive(d, "x.zip", {"MES.csv": csv(t)}).read_bytes())))
refused("a ragged row", r"at most 0.00% of a file, got 1 of 8040, the first for '5 fields, 6 expected' \(MES.csv, row 99\)")(lambda t, d: put(d, "MES.csv", flawed(t, put_in="{stamp},{open},{high},{low},{close}")))
refused("more ragged rows than may be", r"at most 0.10% of a file, got 40", data__max_bad_share=0.001)(lambda t, d: put(d, "MES.csv", flawed(t, put_in="x", count=40)))
refused("a NUL byte", r"'NUL byte' \(MES.csv, row 99\)")(lambda t, d: put(d, "MES.csv", flawed(t, put_in="{stamp},50\x0000,{high},{low},{close},1")))
refused("a row of NUL bytes at the end", r"'NUL byte'")(lambda t, d: put(d, "MES.csv", csv(t) + "\0" * 500))
refused("a text among prices", r"'not a number' \(MES.csv, row 99\)")(lambda t, d: put(d, "MES.csv", flawed(t, put_in="{stamp},{open},{high},halt,{close},1")))
refused("a conflicting duplicate", r"got 2 of 8041, the first for 'conflicting duplicate' \(MES.csv, row 99\)")(lambda t, d: put(d, "MES.csv", flawed(t, put_in="{row}\n{stamp},{open},{high},{low},{close},99999")))
refused("an equal duplicate", r"got 1 of 8041, the first for 'duplicate' \(MES.csv, row 100\)")(lambda t, d: put(d, "MES.csv", flawed(t, put_in="{row}\n{row}")))
refused("unsorted", r"stamps must be in time order, got .*\(MES.csv, row 5001\). Sort the file")(lambda t, d: put(d, "MES.csv", csv(pd.concat([t[1000:6000], t[:1000]]))))
refused("newest first", r"stamps must be in time order.*row 2\). The newest bars come first")(lambda t, d: put(d, "MES.csv", csv(t[::-1])))
refused("files in another order than time", r"(time order|conflicting duplicate)")(lambda t, d: (put(d, "bars/a.csv", csv(t[4000:])), put(d, "bars/b.csv", csv(pd.concat([t[2000:4000], t[:2000]]))), d / "bars")[-1])
refused("two series without a column that tells them", r"'conflicting duplicate'", data__max_bad_share=0.02)(lambda t, d: put(d, "MES.csv", csv(
    pd.concat([t, t[::3].assign(**{c: t[c] + 50 for c in PRICES})]).sort_values("datetime", kind="stable"))))
refused("two series that share no stamp", r"bars must be of one series, got \d+ of \d+ that open 5 times their range away .*\(MES.csv\)", data__max_bad_share=0.02)(lambda t, d: put(d, "MES.csv", csv(
    t.assign(**{c: t[c] + 50 * (t.index % 3 == 0) for c in PRICES}))))
refused("several symbols, none of them ours", r"several series must name contracts or MES, got ES, NQ \(MES.csv\)")(lambda t, d: put(d, "MES.csv", "\n".join(
    x for r in csv(t).splitlines() for x in ([r + ",symbol"] if r[0] == "d" else [r + ",ES", r + ",NQ"]))))
refused("a contract that is not there", r"data.contract.MES must be a contract of the source, got 'MESU4'", data__contract__MES="MESU4")(lambda t, d: put(d, "MES.csv", contract_csv(of_contracts(t)[0])))
refused("contracts without volume", r"contracts must have volume to be rolled by it", data__columns__volume="none")(lambda t, d: put(d, "MES.csv", contract_csv(of_contracts(t)[0])))
refused("contract files beside others", r"either all files of a source must be named by their contract or none")(lambda t, d: (put(d, "bars/MESH4.csv", csv(t[:100])), put(d, "bars/more.csv", csv(t)), d / "bars")[-1])
refused("files with different columns", r"(column 'close' must be in the file|same columns)")(lambda t, d: (put(d, "bars/a.csv", csv(t[:4000])), put(d, "bars/b.csv", csv(t[4000:], header="datetime,open,high,low,x,volume")), d / "bars")[-1])
refused("bars beside trades", r"a source must hold bars or trades")(lambda t, d: (put(d, "bars/a.csv", csv(t)), put(d, "bars/b.csv", "timestamp,price,size\n1709680000000,5000,1\n1709680001000,5000,1\n"), d / "bars")[-1])
refused("d/m or m/d", r"stamps must have one reading, got .* as mdy or .* as dmy \(MES.csv, row 1\)")(lambda t, d: put(d, "MES.csv", csv(before(t, 9), stamps(before(t, 9), "%m/%d/%Y %H:%M"))))
refused("a form that does not fit", r"MES.csv", own__stamps="%d-%b-%Y %H:%M")(lambda t, d: put(d, "MES.csv", csv(t)))
refused("no stamps", r"datetime must be a stamp in one of the known forms, got 'soon'")(lambda t, d: put(d, "MES.csv", csv(t, ["soon"] * len(t))))
refused("some offsets", r"must all carry an offset or none, got none in row 5001 \(MES.csv\)")(lambda t, d: put(d, "MES.csv", csv(t, stamps(t, "%Y-%m-%d %H:%M:%S+00:00")[:5000] + stamps(t)[5000:])))
refused("a repeated hour seen once", r"must be one moment in America/New_York, got 2024-11-03 01:.*which was twice.*\(MES.csv, row", own__timezone=NY, data__trust_clock=True)(
    lambda t, d: put(d, "MES.csv", (lambda b: csv(b, stamps(b, zone=NY)))(continuous("2024-11-03T02:00:00Z", 600)[lambda b: ~b["datetime"].between("2024-11-03T06:00Z", "2024-11-03T06:59Z")])))
refused("a repeated hour in a jumble", r"must be one moment in America/New_York, got 2024-11-03 01:.*order of the rows does not tell", own__timezone=NY, data__trust_clock=True)(
    lambda t, d: put(d, "MES.csv", (lambda a: csv(b := pd.concat([a[:220], a[240:270], a[220:240], a[270:]]), stamps(b, zone=NY)))(continuous("2024-11-03T02:00:00Z", 600))))
refused("an hour that never was", r"must be one moment in America/New_York, got 2024-03-10 02:00:00, which never was.*\(MES.csv, row 121\)", own__timezone=NY, data__trust_clock=True)(
    lambda t, d: put(d, "MES.csv", csv(b := continuous("2024-03-10T00:00:00Z", 600), stamps(b))))
refused("New York read as UTC", r"MES: the source's clock must .*America/New_York")(lambda t, d: put(d, "MES.csv", csv(t, stamps(t, zone=NY))))
refused("ends read as starts", r"MES: the source's clock must .*(end|stamping)")(lambda t, d: put(d, "MES.csv", csv(t, stamps(t, shift=1))))
refused("starts read as ends", r"MES: the source's clock must .*(start|stamping)", data__stamping="end")(lambda t, d: put(d, "MES.csv", csv(t)))
refused("a zone that is none", r"timezone must be a zone of the tz database, got 'New York'", own__timezone="New York")(lambda t, d: put(d, "MES.csv", csv(t)))
refused("metatrader without a zone", r"data.timezone must name the zone of the stamps, which the format metatrader leaves open", data__profile="metatrader")(
    lambda t, d: put(d, "MES.csv", csv(t, [stamps(t, "%Y.%m.%d"), stamps(t, "%H:%M")], header="")))
refused("databento raw without its profile", r"prices must be below 1,000,000,000, got 5,0.*data.profile = databento")(lambda t, d: READ["databento, raw"].write(t, d))
refused("databento's sign for no price", r"got 1 of 8040, the first for 'not a number' \(MES.csv, row 1\)", data__profile="databento")(lambda t, d: put(
    d, "MES.csv", READ["databento, raw"].write(t, d).read_text().replace(scaled(t)[0][0], "9223372036854775807", 1)))
refused("prices scaled twice", r"prices must be at least 0.0001 after price_scale", own__price_scale=1e-9)(lambda t, d: put(d, "MES.csv", csv(t.assign(**{c: t[c].round() for c in PRICES}), places=0)))
refused("thousands separators", r"MES.csv")(lambda t, d: put(d, "MES.csv", "\n".join([csv(t[:0]).strip(), *(f'{s},"{o[0]},{o[1:]}",{o},{o},{o},1' for s, o in zip(stamps(t), numbers(t)["open"]))])))
refused("5,000.25 beside semicolons", r"'not a number' \(MES.csv, row 1\)")(lambda t, d: put(d, "MES.csv", csv(t.assign(volume=1), separator=";").replace(";5", ";5,")))
refused("5,000.25 beside declared semicolons", r"'not a number' \(MES.csv, row 1\)", own__separator=";")(lambda t, d: put(d, "MES.csv", csv(t.assign(volume=1), separator=";").replace(";5", ";5,")))
refused("5,000 beside semicolons", r"the decimal sign must be plain, got '5,0\d\d', which is 5.0\d\d or 50\d\d \(MES.csv\)")(
    lambda t, d: put(d, "MES.csv", csv(t.assign(**{c: t[c].round() for c in PRICES}, volume=1), separator=";", places=0).replace(";5", ";5,")))
refused("5.000,25 beside semicolons", r"'not a number' \(MES.csv, row")(lambda t, d: put(d, "MES.csv", csv(t, separator=";", decimal=",").replace(";5", ";5.")))
refused("thousands separators in the volume alone", r"'not a number' \(MES.csv, row 1\)")(lambda t, d: put(d, "MES.csv", "\n".join(r if r[0] == "d" else r.rsplit(",", 1)[0] + ',"1,234"' for r in csv(t).splitlines())))
refused("blanks in numbers", r"\(MES.csv")(lambda t, d: put(d, "MES.csv", csv(t).replace(",5", ",5 ")))
refused("two separators", r"the separator must be plain|fields")(lambda t, d: put(d, "MES.csv", csv(t[:4000]) + csv(t[4000:], separator=";", header="")))
refused("start after end", r"must leave at least 2 bars, got 0", data__start="2025-01-01")(lambda t, d: put(d, "MES.csv", csv(t)))
refused("a start that is no date", r"data.start must be a date or time such as 2024-01-31, got 'soon'", data__start="soon")(lambda t, d: put(d, "MES.csv", csv(t)))
refused("end stamps of several lengths", r"(must keep one length|in time order)", own__stamping="end", data__trust_clock=True)(
    lambda t, d: put(d, "MES.csv", csv(pd.concat([t[:300], t[300:][t[300:]["datetime"].dt.minute % 5 == 0]]))))
refused("a profile that is none", r"data.profile must be one of .*Is it binance\?", data__profile="binnance")(lambda t, d: put(d, "MES.csv", csv(t)))
refused("a field of a profile that is none", r"a field of a profile must be one of .*Is it separator\?", own__seperator=";")(lambda t, d: put(d, "MES.csv", csv(t)))
refused("no date in the name", r"a file's name must give its date", data__profile="lean")(lambda t, d: put(d, "MES.csv", csv(t, [str(k) for k in range(len(t))], header="")))
refused("seconds, no minute apart", r"(between minutes|bars must be 1 to 1440 whole minutes)")(lambda t, d: put(d, "MES.csv", csv(continuous("2024-03-07T00:00Z", 600).assign(
    datetime=pd.date_range("2024-03-07", periods=600, freq="s", tz="UTC")))))
refused("the same second for all", r"MES.csv")(lambda t, d: put(d, "MES.csv", csv(t, stamps(t)[:1] * len(t))))
refused("dates without times", r"MES.csv")(lambda t, d: put(d, "MES.csv", csv(t, stamps(t, "%Y-%m-%d"), header="date,open,high,low,close,volume")))
