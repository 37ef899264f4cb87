// Average safetensors files through one's own reading and writing: average OUT FILE…
// c++ -std=c++17 average.cpp $(pkg-config --cflags --libs mwa) -o average
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "mwa.h"

using Plan = std::unique_ptr<mwa_plan, decltype(&mwa_plan_free)>;

static void check(mwa_error *error) {
    if (!error) return;
    std::unique_ptr<mwa_error, decltype(&mwa_error_free)> owned(error, mwa_error_free);
    std::string place = std::string(error->path ? error->path : "") + (error->tensor ? std::string(" ") + error->tensor : "");
    throw std::runtime_error(std::string(error->name) + ": " + place + " " + error->detail);
}

struct Files {
    std::vector<std::ifstream> inputs;
    std::ofstream output;
};

static int read(void *user, size_t input, uint64_t offset, uint8_t *buffer, size_t size) {
    auto &file = static_cast<Files *>(user)->inputs[input];
    file.seekg(static_cast<std::streamoff>(offset));
    return file.read(reinterpret_cast<char *>(buffer), static_cast<std::streamsize>(size)) ? 0 : 1;
}

static int write(void *user, uint64_t offset, const uint8_t *bytes, size_t size) {
    auto &file = static_cast<Files *>(user)->output;
    file.seekp(static_cast<std::streamoff>(offset));
    return file.write(reinterpret_cast<const char *>(bytes), static_cast<std::streamsize>(size)) ? 0 : 1;
}

int main(int count, char **arguments) try {
    if (count < 3) {
        std::cerr << "usage: average OUT FILE…\n";
        return 2;
    }
    Files files;
    std::vector<std::vector<uint8_t>> heads;
    std::vector<mwa_input> inputs;
    for (int i = 2; i < count; i++) {
        auto &file = files.inputs.emplace_back(arguments[i], std::ios::binary);
        file.seekg(0, std::ios::end);
        if (!file) throw std::runtime_error(std::string("cannot open ") + arguments[i]);
        auto file_size = static_cast<uint64_t>(file.tellg());
        auto &head = heads.emplace_back(file_size < 512 ? file_size : 512);
        file.seekg(0).read(reinterpret_cast<char *>(head.data()), static_cast<std::streamsize>(head.size()));
        uint64_t size = 0;
        check(mwa_header_size(head.data(), head.size(), file_size, &size));
        head.resize(size);
        file.seekg(0).read(reinterpret_cast<char *>(head.data()), static_cast<std::streamsize>(size));
        inputs.push_back({arguments[i], nullptr, head.size(), file_size, nullptr});
    }
    for (size_t i = 0; i < inputs.size(); i++) inputs[i].head = heads[i].data();
    std::vector<double> weights(inputs.size(), 1.0);
    mwa_plan *made = nullptr;
    check(mwa_plan_new(inputs.data(), weights.data(), inputs.size(), nullptr, &made));
    Plan plan(made, mwa_plan_free);
    files.output.open(arguments[1], std::ios::binary);
    check(mwa_plan_run(plan.get(), read, write, &files));
    std::cout << mwa_plan_file_size(plan.get()) << " bytes\n";
} catch (const std::exception &error) {
    std::cerr << error.what() << "\n";
    return 1;
}
