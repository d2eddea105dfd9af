// Products of activation rows with packed weights.
//
// Blocking (Goto and van de Geijn, 2008): a part of a panel's inputs stays in the first-level cache while all tiles of
// rows pass by; the sums of a block of rows wait in memory for the next part.
#pragma once

#include <algorithm>
#include <cstring>

#include "tiles.h"

namespace SAGE_ISA {

constexpr int kTilesAtOnce = 16;
constexpr int kRowsAtOnce = kTilesAtOnce * kMaxTile;  // of one piece of work
constexpr int kPartBytes = 24 * 1024;                 // of a panel that stay in the first-level cache
constexpr int kShortPart = 6 * 1024;                  // where one tile passes by: asked for just before

// Rows [first, end) and panels [begin, end) of a product that one piece of work computes.
struct Block {
  int first_row, end_row, first_panel, end_panel;
};

// Rows [first, end) of a step, whole tiles, that one thread takes before it helps others.
struct Share {
  int first, end;
  int rows() const { return end - first; }
};

// How a share of a product is divided: two panels a piece for few rows, else one panel for a block of rows. Of the
// pieces a part are one thread's own, so that it reads on where it was: where threads take turns, a step is up to a
// fifth slower.
struct Division {
  Division(const SageLinear& w, const Share& share, int part = 0, int parts = 1)
      : share(share), panels(num_panels(w)), panels_at_once(share.rows() > 1 && share.rows() * 2 <= kMaxTile ? 2 : 1),
        columns((panels + panels_at_once - 1) / panels_at_once) {
    const int blocks = (share.rows() + kRowsAtOnce - 1) / kRowsAtOnce, pieces = blocks * columns;
    rows_at_once = static_cast<int>(round_up((share.rows() + blocks - 1) / blocks, kMaxTile));
    begin = static_cast<int>(int64_t{pieces} * part / parts);
    count = static_cast<int>(int64_t{pieces} * (part + 1) / parts) - begin;
  }

  Block block(int i) const {
    const int piece = begin + i, row = share.first + piece / columns * rows_at_once;
    const int panel = piece % columns * panels_at_once;
    return {row, std::min(share.end, row + rows_at_once), panel, std::min(panels, panel + panels_at_once)};
  }

  Share share;
  int panels, panels_at_once, columns, rows_at_once, begin, count;
};

// Computes blocks of a product; each asks for the first weights of the one that follows.
class Multiplication {
 public:
  Multiplication(const SageLinear& w, const Rows& a, int compute, int num_rows)
      : w_(w), plain_(w), a_(a), compute_(compute), num_rows_(num_rows), num_in_(padded_in(w)) {
    if (w.kind == SAGE_BF12) plain_.kind = SAGE_BF16;
  }

  // `then` is the block that the same thread computes next; `finish(row, rows, panel, sums)` gets the sums of a tile of
  // rows [rows][kPanel].
  template <class Finish>
  void run(const Block& block, const Block& then, Finish finish) const {
    alignas(64) float sums[kRowsAtOnce * kPanel];
    alignas(64) char unpacked[kPartBytes];
    const int panels = block.end_panel - block.first_panel, tiles = count_tiles(block);
    const int at_once = part_inputs(tiles);
    std::memset(sums, 0, ((panels - 1) * kMaxTile + block.end_row - block.first_row) * kPanel * sizeof(float));
    for (int from = 0; from < num_in_; from += at_once) {
      const Part part{from, std::min(num_in_, from + at_once)};
      const bool is_last = part.to == num_in_;
      const int next = is_last ? 0 : part.to, next_to = std::min(num_in_, next + at_once);
      Soon soon{is_last ? panel_at(w_, then.first_panel) : inputs_at(w_, block.first_panel, next),
                static_cast<int>(head_bytes(w_) * is_last + input_bytes(w_, next_to - next)) / tiles};
      const bool unpacks = w_.kind == SAGE_BF12 && block.end_row - block.first_row > kMaxTile;
      const char* head = w_.kind == SAGE_BF12 && is_last ? panel_at(w_, block.first_panel) : nullptr;
      const PackedPart packed{inputs_at(w_, block.first_panel, from), unpacked, head}, plain{unpacked, nullptr, head};
      float* out = sums;
      for (int row = block.first_row, rows; row < block.end_row; row += rows, out += rows * kPanel) {
        rows = tile_rows(num_rows_ - row);
        if (!unpacks)
          find_tile(w_.kind, compute_, rows, panels)(w_, packed, a_, row, block.first_panel, part, soon, out);
        else if (row == block.first_row)
          find_unpacking_tile(compute_)(w_, packed, a_, row, block.first_panel, part, soon, out);
        else
          find_tile(SAGE_BF16, compute_, rows, panels)(plain_, plain, a_, row, block.first_panel, part, soon, out);
        soon.from += soon.bytes;
        if (is_last)
          for (int p = 0; p < panels; ++p) finish(row, rows, block.first_panel + p, out + p * kMaxTile * kPanel);
      }
    }
  }

 private:
  int count_tiles(const Block& block) const {
    int tiles = 0;
    for (int row = block.first_row; row < block.end_row; row += tile_rows(num_rows_ - row)) ++tiles;
    return tiles;
  }

  // Inputs of a part: parts are of one size, and no larger than what stays in the first-level cache while all tiles
  // pass by; where there is one tile, no larger than what memory should be asked for beforehand.
  int part_inputs(int tiles) const {
    if (num_rows_ == 1) return num_in_;  // one stream: no part is asked for beforehand
    const int64_t bytes = input_bytes(tiles > 1 ? plain_ : w_, num_in_), most = tiles > 1 ? kPartBytes : kShortPart;
    const int parts = static_cast<int>((bytes + most - 1) / most);
    return static_cast<int>(round_up((num_in_ + parts - 1) / parts, kGroup));
  }

  const SageLinear& w_;
  SageLinear plain_;  // the same weight as it is when it is unpacked
  const Rows& a_;
  const int compute_, num_rows_, num_in_;
};

}  // namespace SAGE_ISA
