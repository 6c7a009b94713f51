"""What a coordinator and the hospitals that collude with it know, and whose sum they can open from it.

`Knowledge` collects everything that real contributors handed out. `isolated` answers the same question for an abstract
assignment of lies, without cryptography; it is how assignments are searched exhaustively.
"""

import itertools
from collections import defaultdict

import numpy as np
from secagg_parties import randomness

from fedmodels import secagg
from fedmodels.errors import RemoteProtocolError
from fedmodels.secagg.keystream import add_masks
from fedmodels.secagg.messages import Pairs, RecoverHeader, RevealShares, Shares, decode, decode_request, encode
from fedmodels.secagg.primitives import unseal
from fedmodels.secagg.recovery import _share_data, self_mask
from fedmodels.secagg.shamir import combine


def components(members, separated):
    """The groups of members that are connected by pairs which are not `separated` (a set of frozensets of two)."""
    left, groups = set(members), []
    while left:
        group, border = set(), {min(left)}
        while border:
            group |= border
            border = {b for b in left - group if any(frozenset((a, b)) not in separated for a in border)}
        left -= group
        groups.append(group)
    return groups


def isolated(threshold, colluding, honest, lies):
    """The smallest number of honest hospitals whose sum opens; None if nothing does.

    honest: all honest members of U. lies: for those that uploaded for this session, (D that it was told, whether it did
    step B), and as a third entry, in worlds without the rule, the D of its step B.
    """
    separated, holders = set(), dict.fromkeys(honest, colluding)
    for name, (dropped, opened, *other) in lies.items():
        separated |= {frozenset((name, peer)) for peer in dropped}
        for dealer in honest if opened else ():
            holders[dealer] += dealer not in (other[0] if other else dropped)
    opens = {name for name in lies if holders[name] >= threshold}
    return min((len(group) for group in components(honest, separated) if group <= opens), default=None)


def behaviours(n, threshold, name, members):
    """Every (D, step B done) that a contributor with U of n hospitals can be brought to, as the page has it; None: it
    was shown another session."""
    others = [member for member in members if member != name]
    lists = [frozenset(d) for size in range(n - threshold + 1) for d in itertools.combinations(others, size)]
    return [None, *((d, opened) for d in lists for opened in (False, True))]


class Knowledge:
    """colluders: {name: Ready} of hospitals that hand over their keys."""

    def __init__(self, terms, colluders):
        self.terms, self.colluders = terms, colluders
        self.honest = set(terms.roster) - colluders.keys()
        self.members, self.masked, self.headers = {}, defaultdict(dict), defaultdict(dict)
        self.seeds, self.shares = defaultdict(dict), defaultdict(lambda: defaultdict(dict))
        self.rounds = {}

    def upload(self, request, model, sent):
        """An honest hospital uploaded. Colluders derive all their keys of that session, even if they took no part."""
        header = decode(sent.header, RecoverHeader)
        h = header.session_digest
        self.members[h] = decode_request(request).contributors
        self.masked[h][header.sender], self.headers[h][header.sender] = sent.vector, header
        for name in self.colluders.keys() & set(self.members[h]):
            if (h, name) not in self.rounds:
                state, own = secagg.upload_recover(
                    self.colluders[name], request, model, np.zeros(1, np.uint32), randomness(name)
                )
                assert state.round.session_digest == h
                self.rounds[h, name], self.headers[h][name] = state.round, decode(own.header, RecoverHeader)
            kept = self.rounds[h, name]
            self.seeds[h][frozenset((name, header.sender))] = kept.pair_seeds[header.sender]
            key = kept.share_keys[header.sender]
            share = unseal(key, self.sealed(h, header.sender, name), _share_data(h, header.sender, name))
            self.shares[h][header.sender][self.place(h, name)] = share
        return h

    def place(self, h, name):
        return self.members[h].index(name) + 1

    def sealed(self, h, dealer, holder):
        others = [name for name in self.members[h] if name != dealer]
        return self.headers[h][dealer].shares[others.index(holder)]

    def share_request(self, h, holder, dropped):
        """Step B with the shares that really are for this holder."""
        alive = [name for name in self.members[h] if name not in dropped and name != holder]
        shares = tuple(self.sealed(h, dealer, holder) for dealer in alive)
        return encode(RevealShares(h, tuple(sorted(dropped)), shares))

    def reply(self, message):
        try:
            pairs = decode(message, Pairs)
        except RemoteProtocolError:
            answer = decode(message, Shares)
            alive = [name for name in self.members[answer.session_digest] if name not in answer.dropped]
            for dealer, share in zip(alive, answer.shares, strict=True):
                place = self.place(answer.session_digest, answer.sender)
                if share is not None:
                    self.shares[answer.session_digest][dealer][place] = share
            return
        for peer, seed in zip(pairs.dropped, pairs.seeds, strict=True):
            self.seeds[pairs.session_digest][frozenset((pairs.sender, peer))] = seed

    def isolated(self):
        """(session digest, group) of every smallest group of honest hospitals whose sum opens."""
        found = []
        for h, members in self.members.items():
            opens = {n for n in self.masked[h] if len(self.shares[h][n]) >= self.terms.threshold}
            groups = components(self.honest & set(members), self.seeds[h].keys())
            found += [(h, group) for group in groups if group <= opens]
        return found

    def open(self, h, group):
        """The sum of the group's vectors, from what is known."""
        plus, minus = [], []
        total = np.sum([self.masked[h][name] for name in group], axis=0, dtype=np.uint32)
        for name in group:
            known = self.shares[h][name]
            places = sorted(known)[: self.terms.threshold]
            (secret,) = combine({x: [known[x]] for x in places}, self.terms.threshold).secrets
            minus.append(self_mask(secret, h, name))
            for peer in set(self.members[h]) - group:
                (minus if name < peer else plus).append(self.seeds[h][frozenset((name, peer))])
        return add_masks(total, plus, minus)
