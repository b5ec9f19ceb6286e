"""Networks of rectifiers as mixed-integer linear programs, solved by HiGHS: complete, and slow beyond small networks.

V. Tjeng, K. Xiao and R. Tedrake, "Evaluating robustness of neural networks with mixed integer programming" (ICLR
2019): a rectifier whose input may have either sign is one binary variable, and the limits of its input, which that
takes, come from linear programs over the layers before. A rectifier of one sign costs nothing.
"""

import time

import numpy as np
import torch
from torch import Tensor

from dflare.errors import InputError
from repair.properties.property import Box

try:
    import highspy
except ImportError as missing:
    raise InputError('to certify claims with HiGHS needs highspy: pip install "dflare[verification]"') from missing

TIGHTENED = 300
"""Neurons of either sign that a layer may have to be worth two linear programs each."""

SLACK = 1e-6
"""Limits are widened by this, relative to the larger of 1 and themselves: ten times HiGHS's tolerance."""

Statuses = highspy.HighsModelStatus


class OutOfLimit(Exception):  # noqa: N818  (an ending, not an error)
    """The solver stopped without an answer; the message says why, as part of a sentence."""


class Program:
    """Variables with limits, and linear constraints between them, in HiGHS; `ends` is a moment of `perf_counter`.

    Expressions are those of `affine`, of the inputs and of what rectifiers of either sign return.
    """

    def __init__(self, box: Box, ends: float) -> None:
        self.ends = ends
        self.solver = highspy.Highs()
        for option, value in (("output_flag", False), ("threads", 1), ("random_seed", 0)):
            self.solver.setOptionValue(option, value)
        self.low, self.high = box.low.numpy().copy(), box.high.numpy().copy()
        self.columns = list(range(len(self.low)))  # of the variables in the solver, which has others beside them
        self.binaries: list[int] = []
        self.inputs = len(self.low)
        for low, high in zip(self.low, self.high, strict=True):
            self.solver.addVar(float(low), float(high))

    def rectify(self, rows: Tensor) -> Tensor:
        """Expressions of max(0, .) of expressions (1 + variables, n), see `affine.Rectify`."""
        rows = self._padded(rows)
        low, high = self.limits(rows)
        either = ((low < 0) & (high > 0)).nonzero()[0].tolist()
        if self.binaries and len(either) <= TIGHTENED:  # of inputs alone the limits are exact as they are
            for neuron in either:
                low[neuron], high[neuron] = self._tightened(rows[:, neuron], low[neuron], high[neuron])
            either = [neuron for neuron in either if low[neuron] < 0 < high[neuron]]
        made = torch.where(torch.from_numpy(low >= 0), rows, 0.0)
        for neuron in either:
            self._add_rectifier(rows[:, neuron], float(low[neuron]), float(high[neuron]))
        self.low = np.append(self.low, np.zeros(len(either)))
        self.high = np.append(self.high, high[either])
        made[:, either] = 0.0
        more = made.new_zeros(len(either), made.shape[1])
        more[torch.arange(len(either)), either] = 1.0
        return torch.cat([made, more])

    def limits(self, rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """What expressions (1 + variables, n) can be while every variable stays in its limits, (n,) each."""
        factors = self._padded(rows)[1:]
        middle, reach = (torch.from_numpy(x) for x in ((self.low + self.high) / 2, (self.high - self.low) / 2))
        centre, width = rows[0] + middle @ factors, reach @ factors.abs()
        return _wider((centre - width).numpy(), -1), _wider((centre + width).numpy(), 1)

    def find(self, rows: Tensor, bounds: Tensor) -> np.ndarray | None:
        """Inputs with expressions (1 + variables, n) <= bounds (n,), or None where there are none.

        Raises `OutOfLimit` where the solver stops without an answer.
        """
        first = self.solver.getNumRow()
        for column, bound in zip(self._padded(rows).T, bounds.tolist(), strict=True):
            self._constrain(column, -highspy.kHighsInf, bound)
        try:
            status = self._run(np.zeros(len(self.low)))
            if status == Statuses.kOptimal and self.binaries:
                status = self._run_integer()
            if status in (Statuses.kInfeasible, Statuses.kUnboundedOrInfeasible):  # all variables have limits
                return None
            if status != Statuses.kOptimal:
                raise OutOfLimit(f"HiGHS said {self.solver.modelStatusToString(status).lower()!r}")
            return np.array(self.solver.getSolution().col_value)[: self.inputs]
        finally:
            added = np.arange(first, self.solver.getNumRow(), dtype=np.int32)
            self.solver.deleteRows(len(added), added)

    def _tightened(self, column: Tensor, low: float, high: float) -> tuple[float, float]:
        """The least and the greatest value of an expression under the constraints with binaries let loose."""
        least = self._extreme(column, 1)
        if least is not None:
            low = max(low, float(_wider(np.array(least), -1)))
        if low >= 0:
            return low, high
        greatest = self._extreme(column, -1)
        return low, high if greatest is None else min(high, float(_wider(np.array(-greatest), 1)))

    def _extreme(self, column: Tensor, sign: int) -> float | None:
        """The minimum of sign * expression; None where HiGHS finds none."""
        if self._run(sign * column[1:].numpy()) != Statuses.kOptimal:
            return None
        return float(self.solver.getInfo().objective_function_value + sign * float(column[0]))

    def _add_rectifier(self, column: Tensor, low: float, high: float) -> None:
        """Columns p = expression, z = max(0, p) and b, which is 1 where p > 0; z is the next variable."""
        p = self.solver.getNumCol()
        z, b = p + 1, p + 2
        for ends in ((low, high), (0.0, high), (0.0, 1.0)):
            self.solver.addVar(*ends)
        self._constrain(column, 0.0, 0.0, (p, -1.0))
        infinity = highspy.kHighsInf
        self.solver.addRow(0.0, infinity, 2, np.array([z, p], np.int32), np.array([1.0, -1.0]))
        self.solver.addRow(-infinity, 0.0, 2, np.array([z, b], np.int32), np.array([1.0, -high]))
        self.solver.addRow(-infinity, -low, 3, np.array([z, p, b], np.int32), np.array([1.0, -1.0, -low]))
        self.columns.append(z)
        self.binaries.append(b)

    def _constrain(self, column: Tensor, low: float, high: float, *more: tuple[int, float]) -> None:
        """low <= expression + more <= high."""
        numbers = column.numpy()
        used = numbers[1:].nonzero()[0]
        names = [self.columns[variable] for variable in used] + [name for name, _ in more]
        factors = np.append(numbers[1:][used], [factor for _, factor in more])
        self.solver.addRow(low - numbers[0], high - numbers[0], len(names), np.array(names, np.int32), factors)

    def _run(self, costs: np.ndarray) -> "highspy.HighsModelStatus":
        """Minimise a sum of variables with binaries let loose."""
        which, all_costs = np.arange(self.solver.getNumCol(), dtype=np.int32), np.zeros(self.solver.getNumCol())
        all_costs[self.columns[: len(costs)]] = costs
        self.solver.changeColsCost(len(which), which, all_costs)
        return self._solve()

    def _run_integer(self) -> "highspy.HighsModelStatus":
        which = np.array(self.binaries, np.int32)
        try:
            self._set_kind(which, highspy.HighsVarType.kInteger)
            return self._solve()
        finally:
            self._set_kind(which, highspy.HighsVarType.kContinuous)

    def _set_kind(self, which: np.ndarray, kind: "highspy.HighsVarType") -> None:
        self.solver.changeColsIntegrality(len(which), which, np.full(len(which), int(kind), np.uint8))

    def _solve(self) -> "highspy.HighsModelStatus":
        left = self.ends - time.perf_counter()
        if left <= 0:
            raise OutOfLimit("the time was over")
        self.solver.setOptionValue("time_limit", left)
        self.solver.run()
        return self.solver.getModelStatus()

    def _padded(self, rows: Tensor) -> Tensor:
        return torch.cat([rows, rows.new_zeros(1 + len(self.low) - len(rows), *rows.shape[1:])])


def _wider(limit: np.ndarray, sign: int) -> np.ndarray:
    """The limit moved outwards by `SLACK`."""
    return limit + sign * SLACK * np.maximum(1.0, np.abs(limit))
